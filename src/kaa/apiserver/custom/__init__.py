"""CustomResourceDefinitions: kinds that users declare, served like built-in ones.

Read ``definitions`` first: it follows the definitions and serves what they say. ``strategy`` is what is particular about
one version of one custom resource; it is put together from ``structural`` (pruning, defaults), ``validation`` (the schema's
rules in upstream's words), ``..validation.schema_rules`` (CEL) and ``columns`` (tables, selectable fields, scale).
"""
