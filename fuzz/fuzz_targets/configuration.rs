//! The host's configuration: any text is a configuration or a list of problems, each within the text.
#![no_main]

use std::path::Path;

use kms_host::config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Err(problems) = config::load(text, Path::new("kms-host.yaml")) else { return };
    assert!(!problems.list.is_empty() && !problems.to_string().is_empty());
    // What is missing at the end of a text is shown behind its last character, or on the line that would come next.
    let text = text.replace("\r\n", "\n");
    let mut widths: Vec<usize> = text.split(['\n', '\r']).map(|line| line.chars().count()).collect();
    widths.push(0);
    for problem in &problems.list {
        let within = |number: u64| usize::try_from(number).ok().and_then(|number| number.checked_sub(1));
        let width = within(problem.at.line).and_then(|line| widths.get(line));
        assert!(
            width.is_some_and(|width| within(problem.at.column).is_some_and(|column| column <= *width)),
            "{:?} is not within the text",
            problem.at
        );
    }
});
