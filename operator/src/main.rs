//! kms-operator: the operator as a program. Everything it does is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    // The one TLS provider; it cannot be installed before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    kms_operator::cli::main()
}
