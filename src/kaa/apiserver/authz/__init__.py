"""Who may: RBAC, the Node authorizer, system:masters."""
