//! Asking the admin endpoints of host replicas.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use reqwest::Url;
use serde::de::DeserializeOwned;

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

/// An admin endpoint to ask.
#[derive(Debug, Clone)]
pub struct Admin {
    /// Where it is.
    pub url: Url,
    client: reqwest::Client,
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
        let client = reqwest::Client::builder().timeout(PATIENCE).no_proxy().build()?;
        let urls = if self.urls.is_empty() {
            let replicas = self.state.read()?.map(|local| local.replicas).unwrap_or_default();
            let url = |admin| format!("http://{admin}").parse::<Url>();
            replicas
                .iter()
                .map(|replica| url(replica.admin))
                .collect::<Result<_, _>>()?
        } else {
            self.urls.clone()
        };
        Ok(urls
            .into_iter()
            .map(|url| Admin {
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
            bail!("which host replica? Give --admin URL, or start `kmsctl up` on this machine");
        }
        Ok(all)
    }
}

impl Admin {
    /// What `path` answers.
    ///
    /// # Errors
    /// When the replica does not answer, refuses, or answers something else.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let url = self
            .url
            .join(path)
            .context("the admin endpoint is no base for a path")?;
        let answer = self
            .client
            .get(url)
            .send()
            .await
            .with_context(|| format!("cannot reach a host replica's admin endpoint at {}", self.url))?;
        let (status, text) = (answer.status(), answer.text().await?);
        if !status.is_success() {
            bail!("{} answered {status}: {}", self.url, text.trim());
        }
        serde_json::from_str(&text)
            .with_context(|| format!("{} does not answer as a host replica of this version does", self.url))
    }
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
        let admin = Admin {
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
