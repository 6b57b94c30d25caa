//! umbra-vault
