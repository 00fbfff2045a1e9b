//! A real Lua, as Argo CD runs health checks with.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

/// Names under which Lua is installed.
const NAMES: [&str; 3] = ["lua5.4", "lua5.3", "lua"];

/// The interpreter's name, if there is one here.
#[must_use]
pub fn find() -> Option<&'static str> {
    NAMES.into_iter().find(|name| crate::peer::has(name, "-v"))
}

/// Runs an Argo CD health check (`return` of a table with `status` and `message`) on an object, which it finds as `obj`.
///
/// # Errors
/// With what Lua said, where it failed.
pub fn health(lua: &str, check: &Path, object: &Value) -> Result<(String, String)> {
    let check = std::fs::read_to_string(check)?;
    let script = tempfile::NamedTempFile::new()?;
    let object = literal(object);
    std::fs::write(
        script.path(),
        format!(
            "obj = {object}\nlocal hs = (function()\n{check}\nend)()\nio.write(hs.status, '\\n', hs.message or '')\n"
        ),
    )?;
    // -E: as in Argo CD, nothing of this machine's Lua set-up counts.
    let output = Command::new(lua).arg("-E").arg(script.path()).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stdout)?;
    let (status, message) = said.split_once('\n').context("the check returned no status")?;
    Ok((status.to_owned(), message.to_owned()))
}

/// JSON as an expression in Lua.
fn literal(value: &Value) -> String {
    match value {
        Value::Null => "nil".to_owned(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::String(text) => quoted(text),
        Value::Array(items) => format!("{{{}}}", items.iter().map(literal).collect::<Vec<_>>().join(", ")),
        Value::Object(fields) => {
            let fields = fields
                .iter()
                .map(|(name, value)| format!("[{}] = {}", quoted(name), literal(value)));
            format!("{{{}}}", fields.collect::<Vec<_>>().join(", "))
        }
    }
}

/// Bytes by number, so that no quoting rule of Lua matters.
fn quoted(text: &str) -> String {
    let bytes: String = text.bytes().map(|byte| format!("\\{byte:03}")).collect();
    format!("\"{bytes}\"")
}
