//! kmsctl: drives and shows host replicas, with or without Kubernetes.
