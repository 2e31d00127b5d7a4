"""Judging: which tests run against which implementation, and what their failures are called."""
