//! umbra-index-rocksdb
