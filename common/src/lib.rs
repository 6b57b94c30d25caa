//! umbra-common
