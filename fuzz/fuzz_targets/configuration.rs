//! The host's configuration: any text is a configuration or a list of problems, each within the text.
#![no_main]

use std::path::Path;

use kms_host::config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Err(problems) = config::load(text, Path::new("kms-host.yaml")) {
        assert!(!problems.to_string().is_empty());
    }
});
