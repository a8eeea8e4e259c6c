"""What tests of several packages share; importable as `helpers` (tests/conftest.py)."""
