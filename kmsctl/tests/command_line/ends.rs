//! Exit codes of command lines that are wrong.

use anyhow::Result;

use crate::running::kmsctl;

#[test]
fn a_wrong_command_line_ends_with_2_and_says_what_to_write() -> Result<()> {
    let key = tempfile::NamedTempFile::new()?;
    std::fs::write(key.path(), [7; 32])?;
    let key = ["--site-key-file", key.path().to_str().unwrap_or_default()];
    let here = ["--host", "127.0.0.1"];
    for (arguments, told) in [
        (&["activate", "--product", "Office97"][..], "OfficeLTSC2024"),
        (&["activate", "--name", "pc,"], "no workstation name"),
        (&["activate", "--host", "127.0.0.1:x"], "`x` is no port"),
        (&["load", "--machines", "8"], "--connections"),
        (&["load", "--sources", "::1/128"], "--sources"),
        (&["load", "--sources", "everywhere"], "127.1.0.0/16"),
    ] {
        let named = arguments.contains(&"--host");
        let arguments = [arguments, &key, if named { &[] } else { &here }].concat();
        let output = kmsctl(&arguments)?;
        let error = String::from_utf8(output.stderr)?;
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
        assert!(error.contains(told), "{arguments:?}: {error}");
    }
    for (arguments, told) in [
        (&["activate", key[0], key[1]][..], "give --host or --zone"),
        (&["activate", here[0], here[1]], "give --site-key-file"),
        (&["load", here[0], here[1]], "give --site-key-file"),
        (&["events"], "--admin URL"),
        (&["probe"], "HOST"),
    ] {
        let output = kmsctl(arguments)?;
        let error = String::from_utf8(output.stderr)?;
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
        assert!(
            error.to_lowercase().contains(&told.to_lowercase()),
            "{arguments:?}: {error}"
        );
    }
    Ok(())
}
