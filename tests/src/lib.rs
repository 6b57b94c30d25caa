//! umbra-tests
