"""The suite's own asserts tell what they compared, like those of a test module."""

import pytest

pytest.register_assert_rewrite("tests.conformance.backend_suite")
