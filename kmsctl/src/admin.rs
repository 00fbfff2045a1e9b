//! Asking the admin endpoints of host replicas: by their addresses, or in a cluster through the API server.

mod pod;

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use kube::Client;
use reqwest::{StatusCode, Url};
use serde::de::DeserializeOwned;

use crate::cluster;
use crate::exit::Misuse;
use crate::local::StateDir;

/// How long a replica may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Which admin endpoints are asked.
#[derive(Debug, Clone, clap::Args)]
pub struct Admins {
    /// Admin endpoint of a host replica, such as `http://127.0.0.1:9688`; may be repeated
    /// [default: those of what `kmsctl up` runs here]
    #[arg(long = "admin", env = "OKMS_ADMIN", value_name = "URL", value_delimiter = ',')]
    urls: Vec<Url>,
    #[command(flatten)]
    state: StateDir,
}

/// Whose replicas are asked.
#[derive(Debug, Clone, clap::Args)]
pub struct Replicas {
    /// Resource in the cluster of the kubeconfig: its replicas are asked through the API server, as by port-forward
    #[arg(conflicts_with = "urls")]
    name: Option<String>,
    /// Namespace of the resource [default: that of the kubeconfig's context]
    #[arg(short, long, requires = "name")]
    namespace: Option<String>,
    /// Context of the kubeconfig [default: the current one]
    #[arg(long, requires = "name")]
    context: Option<String>,
    #[command(flatten)]
    admins: Admins,
}

impl Replicas {
    /// The admin endpoints, of which there must be one.
    ///
    /// # Errors
    /// When there is none, or the cluster cannot be asked.
    pub async fn some(&self) -> Result<Vec<Admin>> {
        let Some(name) = &self.name else {
            return self.admins.some();
        };
        let (client, namespace) = cluster::connect(self.context.as_deref()).await?;
        let namespace = self.namespace.as_ref().unwrap_or(&namespace);
        Admin::of(&client, namespace, name).await
    }
}

/// An admin endpoint to ask.
#[derive(Debug, Clone)]
pub enum Admin {
    /// By its address.
    Http {
        /// Where it is.
        url: Url,
        /// Who asks.
        client: reqwest::Client,
    },
    /// Of a pod, through the API server.
    Pod(pod::Pod),
}

impl fmt::Display for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http { url, .. } => url.fmt(f),
            Self::Pod(pod) => pod.fmt(f),
        }
    }
}

impl Admins {
    /// Whether endpoints were given.
    #[must_use]
    pub fn are_given(&self) -> bool {
        !self.urls.is_empty()
    }

    /// The endpoints; none if none are given and nothing runs here.
    ///
    /// # Errors
    /// When the record of `kmsctl up` cannot be read.
    pub fn all(&self) -> Result<Vec<Admin>> {
        let client = client()?;
        let urls = if self.urls.is_empty() {
            let replicas = self.state.read()?.map(|local| local.replicas).unwrap_or_default();
            replicas
                .iter()
                .map(|replica| url(replica.admin))
                .collect::<Result<_>>()?
        } else {
            self.urls.clone()
        };
        Ok(urls
            .into_iter()
            .map(|url| Admin::Http {
                url,
                client: client.clone(),
            })
            .collect())
    }

    /// The endpoints, of which there must be one.
    ///
    /// # Errors
    /// When there is none.
    pub fn some(&self) -> Result<Vec<Admin>> {
        let all = self.all()?;
        if all.is_empty() {
            let question =
                "which host replica? Give a resource's NAME, --admin URL, or start `kmsctl up` on this machine";
            return Err(Misuse(question.to_owned()).into());
        }
        Ok(all)
    }
}

fn client() -> Result<reqwest::Client> {
    Ok(reqwest::Client::builder().timeout(PATIENCE).no_proxy().build()?)
}

fn url(address: SocketAddr) -> Result<Url> {
    Ok(format!("http://{address}").parse()?)
}

impl Admin {
    /// Those of the running replicas of a resource, of which there is at least one.
    ///
    /// # Errors
    /// When there is no such resource, none of its replicas runs, or neither may be looked up.
    pub async fn of(client: &Client, namespace: &str, name: &str) -> Result<Vec<Self>> {
        let pods = pod::running(client, namespace, name).await?;
        Ok(pods.into_iter().map(Self::Pod).collect())
    }

    /// That of a replica on this machine.
    ///
    /// # Errors
    /// When this system lets nobody ask.
    pub fn at(address: SocketAddr) -> Result<Self> {
        Ok(Self::Http {
            url: url(address)?,
            client: client()?,
        })
    }

    /// What `path` answers.
    ///
    /// # Errors
    /// When the replica does not answer, refuses, or answers something else.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let answer = match self {
            Self::Http { url, client } => by_address(url, client, path).await,
            Self::Pod(pod) => match tokio::time::timeout(PATIENCE, pod.get(path)).await {
                Ok(answer) => answer,
                Err(_) => bail!("it did not answer within {} s", PATIENCE.as_secs()),
            },
        };
        let (status, text) =
            answer.with_context(|| format!("cannot reach a host replica's admin endpoint at {self}"))?;
        if !status.is_success() {
            bail!("{self} answered {status}: {}", text.trim());
        }
        serde_json::from_str(&text)
            .with_context(|| format!("{self} does not answer as a host replica of this version does"))
    }
}

async fn by_address(url: &Url, client: &reqwest::Client, path: &str) -> Result<(StatusCode, String)> {
    let url = url.join(path).context("the admin endpoint is no base for a path")?;
    let answer = client.get(url).send().await?;
    Ok((answer.status(), answer.text().await?))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// What is asked of, and concluded from, a replica that answers so.
    async fn asked(answer: &'static str) -> (String, Result<serde_json::Value>) {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let replica = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let read = stream.read(&mut request).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&request[..read]).into_owned()
        });
        let admin = Admin::Http {
            url,
            client: reqwest::Client::builder().no_proxy().build().unwrap(),
        };
        let got = admin.get("/explain/2001:db8::7").await;
        (replica.await.unwrap(), got)
    }

    #[tokio::test]
    async fn the_replica_is_asked_for_the_path_and_its_refusal_is_shown() {
        let (request, value) = asked("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}").await;
        assert!(request.starts_with("GET /explain/2001:db8::7 HTTP/1.1"), "{request}");
        assert_eq!(value.unwrap(), serde_json::json!({}));
        let refusal = "HTTP/1.1 404 Not Found\r\ncontent-length: 7\r\nconnection: close\r\n\r\nnobody\n";
        let error = asked(refusal).await.1.unwrap_err().to_string();
        assert!(error.ends_with("answered 404 Not Found: nobody"), "{error}");
        let other = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\nnope";
        let error = asked(other).await.1.unwrap_err().to_string();
        assert!(error.contains("does not answer as a host replica"), "{error}");
    }
}
