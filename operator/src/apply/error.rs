//! Why a child could not be made as it should be, and what to do about it.

use crate::conditions::reason;
use crate::kinds::ChildKind;

/// What was asked of the API server, as permissions name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Read by name.
    Get,
    /// Read all of a kind.
    List,
    /// Make.
    Create,
    /// Apply.
    Patch,
    /// Remove.
    Delete,
}

impl Verb {
    /// As permissions name it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Create => "create",
            Self::Patch => "patch",
            Self::Delete => "delete",
        }
    }
}

/// Why a child could not be made as it should be.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The operator lacks a permission.
    #[error(
        "the operator may not {verb} {resource} in namespace {namespace}: add the verb to its Role or ClusterRole ({said})"
    )]
    Forbidden {
        /// The verb that it needs.
        verb: &'static str,
        /// The resource with its group.
        resource: String,
        /// Where.
        namespace: String,
        /// What the API server said.
        said: String,
    },
    /// The namespace is being deleted.
    #[error("namespace {namespace} is being deleted: nothing is made in it any more")]
    NamespaceEnds {
        /// The namespace.
        namespace: String,
    },
    /// An object of this name is not ours.
    #[error("the {kind} {name} exists and belongs to {by}: remove it, or give this resource another name")]
    Taken {
        /// Its kind.
        kind: &'static str,
        /// Its name.
        name: String,
        /// Who controls it.
        by: String,
    },
    /// The cluster does not have the kind.
    #[error("this cluster has no {resource}: {advice}")]
    NoKind {
        /// The resource with its group.
        resource: String,
        /// What to do.
        advice: &'static str,
    },
    /// The API server, or a policy in front of it, refused the object.
    #[error("the {kind} {name} was refused: {said}")]
    Refused {
        /// Its kind.
        kind: &'static str,
        /// Its name.
        name: String,
        /// What the API server said.
        said: String,
    },
    /// Somebody else wrote the object at the same moment.
    #[error("the {kind} {name} was changed by somebody else at the same moment; it is tried again")]
    Conflict {
        /// Its kind.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// It could not be asked, or could not answer.
    #[error("cannot {verb} the {kind} {name} now")]
    Unavailable {
        /// What was asked.
        verb: &'static str,
        /// Its kind.
        kind: &'static str,
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
    /// A builder made a kind that is not known: a defect.
    #[error("the kind {0:?} is not one that the operator makes: report this")]
    UnknownKind(String),
    /// An object that is no JSON: a defect.
    #[error("a child cannot be written as JSON: report this")]
    NoJson(#[source] serde_json::Error),
}

impl ApplyError {
    /// Tells what an answer of the API server means.
    #[must_use]
    pub fn of(error: kube::Error, verb: Verb, kind: &'static ChildKind, namespace: &str, name: &str) -> Self {
        let kube::Error::Api(status) = error else {
            return Self::unavailable(error, verb, kind, name);
        };
        let causes = status.details.iter().flat_map(|details| &details.causes);
        let ends = causes.clone().any(|cause| cause.reason == "NamespaceTerminating");
        let said = status.message.clone();
        match status.code {
            403 if ends => Self::NamespaceEnds {
                namespace: namespace.to_owned(),
            },
            // Admission plugins and quotas say Forbidden as well; only the authorizer says who may not do what.
            403 if said.contains(" cannot ") => Self::Forbidden {
                verb: if verb == Verb::Patch && said.contains("cannot create") {
                    "create"
                } else {
                    verb.as_str()
                },
                resource: kind.resource_name(),
                namespace: namespace.to_owned(),
                said,
            },
            404 if said.contains(&format!("namespaces \"{namespace}\"")) => Self::NamespaceEnds {
                namespace: namespace.to_owned(),
            },
            404 if let Some(advice) = kind.absent => Self::NoKind {
                resource: kind.resource_name(),
                advice,
            },
            409 => Self::Conflict {
                kind: kind.kind,
                name: name.to_owned(),
            },
            400 | 403 | 413 | 415 | 422 => Self::Refused {
                kind: kind.kind,
                name: name.to_owned(),
                said,
            },
            _ => Self::unavailable(kube::Error::Api(status), verb, kind, name),
        }
    }

    fn unavailable(error: kube::Error, verb: Verb, kind: &'static ChildKind, name: &str) -> Self {
        Self::Unavailable {
            verb: verb.as_str(),
            kind: kind.kind,
            name: name.to_owned(),
            source: Box::new(error),
        }
    }

    /// The reason that conditions and metrics show.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Forbidden { .. } => reason::FORBIDDEN,
            Self::NamespaceEnds { .. } => reason::NAMESPACE_TERMINATING,
            Self::Taken { .. } => reason::NAME_TAKEN,
            Self::NoKind { .. } => reason::KIND_MISSING,
            Self::Refused { .. } => reason::REFUSED,
            Self::Conflict { .. } => reason::CONTESTED,
            Self::Unavailable { .. } => reason::API_UNAVAILABLE,
            Self::UnknownKind(_) | Self::NoJson(_) => reason::DEFECT,
        }
    }

    /// Whether only people can end it, so that trying again soon is of no use.
    #[must_use]
    pub fn needs_people(&self) -> bool {
        !matches!(
            self,
            Self::Unavailable { .. } | Self::Conflict { .. } | Self::NamespaceEnds { .. }
        )
    }
}
