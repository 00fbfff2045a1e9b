//! kms-operator: turns each `OfficeKmsHost` into running, shared, exposed host replicas.
