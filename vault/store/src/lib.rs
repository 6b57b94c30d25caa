//! umbra-store
