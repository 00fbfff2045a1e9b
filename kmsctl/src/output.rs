//! What commands print: tables for people, JSON and YAML for scripts.
//!
//! Every command builds one serialisable value first; a table is only a view of it, so that `-o json` never knows less
//! than the terminal.

use std::io::{self, Write};

use anyhow::Context;
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

/// Format of a command's result on standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// For people: aligned columns, wrapped to the terminal.
    #[default]
    Table,
    /// One JSON document.
    Json,
    /// One YAML document.
    Yaml,
}

/// A value that has a view for people.
pub trait View: Serialize {
    /// Writes the view for people, ending in a newline.
    ///
    /// # Errors
    /// Those of the writer.
    fn view(&self, out: &mut dyn Write) -> io::Result<()>;
}

/// Prints `value` to standard output. A reader that went away (`kmsctl ... | head`) is not an error.
///
/// # Errors
/// When the value cannot be serialised or written.
pub fn print(format: Format, value: &impl View) -> anyhow::Result<()> {
    match write(format, value, &mut io::stdout().lock()) {
        Err(error) if is_broken_pipe(&error) => Ok(()),
        other => other,
    }
}

fn write(format: Format, value: &impl View, out: &mut dyn Write) -> anyhow::Result<()> {
    match format {
        Format::Table => value.view(out)?,
        Format::Json => {
            serde_json::to_writer_pretty(&mut *out, value).context("the result cannot be written as JSON")?;
            writeln!(out)?;
        }
        Format::Yaml => {
            let text = serde_saphyr::to_string(value).context("the result cannot be written as YAML")?;
            writeln!(out, "{}", text.trim_end())?;
        }
    }
    out.flush()?;
    Ok(())
}

/// Whether an error is that nobody reads what is written any more.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|io| io.kind() == io::ErrorKind::BrokenPipe)
            || cause
                .downcast_ref::<serde_json::Error>()
                .is_some_and(|json| json.io_error_kind() == Some(io::ErrorKind::BrokenPipe))
    })
}

/// A table with the look that all commands share: no frame, headings in capitals, columns cut to the terminal.
#[must_use]
pub fn table<const N: usize>(headings: [&str; N]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(headings.map(str::to_uppercase));
    table
}

/// A duration as people read it: `850 µs`, `3.2 ms`, `14 s`.
#[must_use]
pub fn duration(value: std::time::Duration) -> String {
    let micros = value.as_micros();
    match micros {
        0..1_000 => format!("{micros} µs"),
        1_000..1_000_000 => format!("{:.1} ms", value.as_secs_f64() * 1e3),
        _ => format!("{:.1} s", value.as_secs_f64()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[derive(Serialize)]
    struct Answer {
        count: u32,
    }

    impl View for Answer {
        fn view(&self, out: &mut dyn Write) -> io::Result<()> {
            writeln!(out, "count is {}", self.count)
        }
    }

    fn written(format: Format) -> String {
        let mut out = Vec::new();
        write(format, &Answer { count: 5 }, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn each_format_says_the_same() {
        assert_eq!(written(Format::Table), "count is 5\n");
        assert_eq!(written(Format::Json), "{\n  \"count\": 5\n}\n");
        assert_eq!(written(Format::Yaml), "count: 5\n");
    }

    #[test]
    fn durations_read_well_at_every_scale() {
        assert_eq!(duration(Duration::from_micros(850)), "850 µs");
        assert_eq!(duration(Duration::from_micros(3_240)), "3.2 ms");
        assert_eq!(duration(Duration::from_secs(14)), "14.0 s");
    }
}
