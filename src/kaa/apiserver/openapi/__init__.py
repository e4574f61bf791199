"""OpenAPI v2 and v3 of everything served. See ``documents``; nothing else loads until a document is asked for."""

from .documents import CustomSchema, Document, OpenAPI

__all__ = ["CustomSchema", "Document", "OpenAPI"]
