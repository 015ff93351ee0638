"""AOTInductor packages: format and runtime."""
