//! umbra-net
