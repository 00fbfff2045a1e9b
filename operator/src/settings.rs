//! What the operator itself is told, as opposed to what a resource says: images, and where to look.

/// Image of kms-host while nothing else is said.
pub const HOST_IMAGE: &str = concat!("ghcr.io/officekms/kms-host:", env!("CARGO_PKG_VERSION"));

/// Image of the managed ledger while nothing else is said: Valkey, under a licence that lets everyone run it.
pub const REDIS_IMAGE: &str = "docker.io/valkey/valkey:8.1";

/// Settings of the operator that its children depend on. `kmsctl render` takes the same flags.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct Settings {
    /// Image of kms-host, for resources that name none.
    #[arg(long, env = "OKMS_HOST_IMAGE", value_name = "IMAGE", default_value = HOST_IMAGE)]
    pub host_image: String,

    /// Image of Redis or Valkey (6.2 or later) for managed ledgers that name none.
    #[arg(long, env = "OKMS_REDIS_IMAGE", value_name = "IMAGE", default_value = REDIS_IMAGE)]
    pub redis_image: String,

    /// User and group ID of managed ledgers. Their public images name no numeric user. 0: leave it to the image or, on
    /// OpenShift, to the platform.
    #[arg(long, env = "OKMS_REDIS_USER", value_name = "ID", default_value_t = 999,
          value_parser = clap::value_parser!(i64).range(0..=2_147_483_647))]
    pub redis_user: i64,

    /// Resources whose workloads may take over a new default image at the same time, one after the other until all have.
    /// 0: workloads keep the default image that they were made with.
    #[arg(long, env = "OKMS_UPGRADE_AT_ONCE", value_name = "N", default_value_t = 0,
          value_parser = clap::value_parser!(u16).range(0..=1000))]
    pub upgrade_at_once: u16,

    /// When nodes pull images.
    #[arg(long, env = "OKMS_IMAGE_PULL_POLICY", value_enum, default_value_t = PullPolicy::IfNotPresent)]
    pub image_pull_policy: PullPolicy,

    /// Secrets with which images are pulled, besides those that a resource names. They must exist in its namespace.
    #[arg(
        long = "image-pull-secret",
        env = "OKMS_IMAGE_PULL_SECRETS",
        value_name = "NAME",
        value_delimiter = ','
    )]
    pub image_pull_secrets: Vec<String>,

    /// Namespaces to watch. None given: all.
    #[arg(
        long = "watch-namespace",
        env = "OKMS_WATCH_NAMESPACES",
        value_name = "NAMESPACE",
        value_delimiter = ','
    )]
    pub watch_namespaces: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            host_image: HOST_IMAGE.to_owned(),
            redis_image: REDIS_IMAGE.to_owned(),
            redis_user: 999,
            upgrade_at_once: 0,
            image_pull_policy: PullPolicy::default(),
            image_pull_secrets: Vec::new(),
            watch_namespaces: Vec::new(),
        }
    }
}

/// When nodes pull an image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "PascalCase")]
pub enum PullPolicy {
    /// Each time that a container starts.
    Always,
    /// When the node does not have it.
    #[default]
    IfNotPresent,
    /// Never: it was loaded into the node.
    Never,
}

impl PullPolicy {
    /// The name in pod specs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        settings: Settings,
    }

    #[test]
    fn no_flags_are_the_defaults() {
        assert_eq!(Line::parse_from(["operator"]).settings, Settings::default());
        let settings =
            Line::parse_from(["operator", "--watch-namespace", "a,b", "--image-pull-policy", "Never"]).settings;
        assert_eq!(settings.watch_namespaces, ["a", "b"]);
        assert_eq!(settings.image_pull_policy, PullPolicy::Never);
    }
}
