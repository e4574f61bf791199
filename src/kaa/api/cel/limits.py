"""How much expressions may cost, and how long they may be: each place that runs them has its own.

Source: apiserver pkg/apis/cel/config.go; apiextensions-apiserver pkg/apis/apiextensions/validation; resource API
(CELSelectorExpressionMaxCost).
"""

from __future__ import annotations

from typing import Final

#: one evaluation of one expression: some 0.1 s of Go
PER_CALL: Final = 1_000_000
#: all rules over one custom resource, or one binding of an admission policy, together
PER_OBJECT: Final = 10_000_000
#: all matchConditions of one webhook or policy, together
MATCH_CONDITIONS: Final = 2_500_000
#: the estimate for one rule of a CRD, times how often it may run
CRD_RULE_ESTIMATE: Final = 10_000_000
#: the estimates for all rules of a CRD, together
CRD_ESTIMATE: Final = 100_000_000
#: one evaluation of a device selector
DEVICE_SELECTOR: Final = 1_000_000
DEVICE_SELECTOR_LENGTH: Final = 10 * 1024
#: bytes of what a messageExpression may give
MESSAGE_SIZE: Final = 5 * 1024
REQUEST_SIZE: Final = 3 * 1024 * 1024
