//! kmsctl: parses the command line and calls the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    // The one TLS provider; it cannot be installed before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    kmsctl::cli::main()
}
