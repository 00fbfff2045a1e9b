//! DNS for KMS endpoints: what clients would find, what we publish, and whether it is true.
