//! Support for whole-system tests: starts real servers and ends them with the test.
