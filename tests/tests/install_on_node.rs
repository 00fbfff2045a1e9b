//! From nothing to activated clients and back to nothing, on a cluster with nodes: the one that `KUBECONFIG` names.
//!
//! Skipped, by name, where there is none, where it has officekms already, or where its nodes lack the images: build them
//! with `make images` and load them into a node first (docs/install.md), and an image of Redis or Valkey. The managed
//! ledger needs a default StorageClass or a volume that is free.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use system_tests::helm::Tools;
use system_tests::peer::skipped;
use system_tests::program::path;

const TEST: &str = "from_helm_install_to_licensed_clients_and_back_to_nothing";
const SYSTEM: &str = "officekms-system";
const TRIAL: &str = "officekms-trial";
const PATIENCE: &str = "--timeout=240s";
const VERSION: &str = env!("CARGO_PKG_VERSION");

const HOST: &str = "
apiVersion: officekms.io/v1alpha1
kind: OfficeKmsHost
metadata: {name: rehearsal, namespace: officekms-trial}
spec:
  replicas: 3
  rehearsal: {}
  ledger:
    managed: {storage: {size: 64Mi}}
";

#[test]
fn from_helm_install_to_licensed_clients_and_back_to_nothing() -> Result<()> {
    let cluster = match Cluster::find() {
        Ok(cluster) => cluster,
        Err(why) => {
            skipped(TEST, &format!("{why:#}"));
            return Ok(());
        }
    };
    let story = cluster.story();
    if story.is_err() {
        cluster.tell();
    }
    let gone = cluster.clean_up();
    story.and(gone)
}

struct Cluster {
    tools: Tools,
    kubeconfig: PathBuf,
}

impl Cluster {
    /// A cluster on which the story can take place, or why there is none.
    fn find() -> Result<Self> {
        let named = std::env::var_os("KUBECONFIG").context("no KUBECONFIG names a cluster with nodes")?;
        let kubeconfig = PathBuf::from(named);
        let cluster = Self {
            tools: Tools::find()?.on(&kubeconfig),
            kubeconfig,
        };
        let nodes = cluster.json("get nodes")?;
        let images: Vec<&str> = items(&nodes)
            .flat_map(|node| {
                node.pointer("/status/images")
                    .and_then(Value::as_array)
                    .into_iter()
                    .flatten()
            })
            .flat_map(|image| image["names"].as_array().into_iter().flatten())
            .filter_map(Value::as_str)
            .collect();
        for name in ["kms-operator", "kms-host", "kmsctl"] {
            let image = format!("ghcr.io/officekms/{name}:{VERSION}");
            ensure!(
                images.contains(&image.as_str()),
                "no node of this cluster has {image}: make images, and load it"
            );
        }
        let there = cluster.json("get crd --ignore-not-found -l app.kubernetes.io/part-of=officekms")?;
        ensure!(
            items(&there).count() == 0,
            "this cluster has officekms already, which is left alone"
        );
        let classes = items(&cluster.json("get storageclasses")?).count();
        let free =
            items(&cluster.json("get persistentvolumes")?).any(|volume| text(volume, "/status/phase") == "Available");
        ensure!(
            classes > 0 || free,
            "this cluster has neither a StorageClass nor a free volume for the managed ledger"
        );
        Ok(cluster)
    }

    fn story(&self) -> Result<()> {
        for namespace in [SYSTEM, TRIAL] {
            self.kubectl(&format!("create namespace {namespace}"))?;
            self.kubectl(&format!(
                "label namespace {namespace} pod-security.kubernetes.io/enforce=restricted"
            ))?;
        }
        self.helm("install officekms charts/officekms --wait --timeout 240s")?;
        self.helm("test officekms --timeout 240s")?;

        // Three replicas and their ledger come up, and pass their probes under Pod Security "restricted".
        self.apply(HOST)?;
        self.kubectl(&format!(
            "-n {TRIAL} wait --for=condition=Ready officekmshost/rehearsal {PATIENCE}"
        ))?;
        self.kubectl(&format!(
            "-n {TRIAL} wait --for=condition=LedgerReady officekmshost/rehearsal {PATIENCE}"
        ))?;
        let before = self.host_pods()?;
        ensure!(before.len() == 3, "{before:?}");

        // One count for all: each client connects anew, to whichever pod the Service picks.
        let clients = self.activate("first", 1, 6)?;
        let counts: Vec<i64> = clients
            .iter()
            .filter_map(|client| client["currentCount"].as_i64())
            .collect();
        ensure!(
            counts == [1, 2, 3, 4, 5, 6],
            "the pods do not share one count: {clients:?}"
        );
        let outcomes: Vec<&str> = clients.iter().filter_map(|client| client["outcome"].as_str()).collect();
        let (waiting, licensed) = outcomes.split_at(4);
        ensure!(
            waiting.iter().all(|outcome| *outcome == "notEnoughClients"),
            "{outcomes:?}"
        );
        ensure!(
            licensed.iter().all(|outcome| *outcome == "licensed"),
            "the fifth client is licensed: {outcomes:?}"
        );

        // A killed pod loses nothing, be it a replica or the ledger.
        let victim = before.keys().next().context("there are pods")?;
        self.kubectl(&format!("-n {TRIAL} delete pod {victim} --grace-period=0 --force"))?;
        self.settled()?;
        ensure!(
            self.count_of("after-a-replica", 7)? == 7,
            "a killed replica lost the count"
        );
        self.kubectl(&format!(
            "-n {TRIAL} delete pod rehearsal-redis-0 --grace-period=0 --force"
        ))?;
        self.settled()?;
        ensure!(
            self.count_of("after-the-ledger", 8)? == 8,
            "a killed ledger lost the count"
        );

        // So many more that each of three pods has its share: all tell the count of all, which ends at twice what is required.
        let clients = self.activate("many", 9, 60)?;
        let counts = clients.iter().filter_map(|client| client["currentCount"].as_i64());
        ensure!(counts.eq((9..69).map(|count| count.min(10))), "{clients:?}");
        let before = self.host_pods()?;
        let answered = self.pods_that_answered(before.keys())?;
        ensure!(answered == 3, "only {answered} of three pods answered");

        self.relay_story()?;
        self.people_look()?;
        self.another_leads()?;

        // The operator is replaced by one that would give its host replicas another image, and no host pod is replaced.
        let before = self.host_pods()?;
        let old = self.operator_pods()?;
        self.helm(
            "upgrade officekms charts/officekms --wait --timeout 240s --set podAnnotations.upgrade=again \
             --set hostImage.tag=next --set redisImage.tag=next",
        )?;
        let new = self.operator_pods()?;
        ensure!(
            new.keys().all(|pod| !old.contains_key(pod)),
            "the operator was not replaced: {old:?} {new:?}"
        );
        // The new leader has looked when it has carried out a spec that only it has seen, and which needs no new pods.
        self.kubectl(&format!(
            "-n {TRIAL} patch officekmshost rehearsal --type=merge -p {}",
            r#"{"spec":{"clients":{"limits":{"connections":12345}}}}"#
        ))?;
        let generation = self.kubectl(&format!(
            "-n {TRIAL} get officekmshost rehearsal -o jsonpath={{.metadata.generation}}"
        ))?;
        self.kubectl(&format!(
            "-n {TRIAL} wait --for=jsonpath={{.status.observedGeneration}}={} officekmshost/rehearsal {PATIENCE}",
            generation.trim()
        ))?;
        self.settled()?;
        let after = self.host_pods()?;
        ensure!(
            before == after,
            "the operator's upgrade touched host pods: {before:?} {after:?}"
        );
        Ok(())
    }

    /// The example with two relays: they find the host behind them by its name, and clients are told what it says.
    fn relay_story(&self) -> Result<()> {
        self.kubectl(&format!("-n {TRIAL} apply --server-side -f docs/examples/demo.yaml"))?;
        for name in ["stand-in", "kms"] {
            self.kubectl(&format!(
                "-n {TRIAL} wait --for=condition=Available officekmshost/{name} {PATIENCE}"
            ))?;
            self.kubectl(&format!("-n {TRIAL} rollout status deployment/{name} {PATIENCE}"))?;
        }
        let clients = self.activate_at("relayed", 1, 6, "kms", "stand-in-keys")?;
        let outcomes: Vec<&str> = clients.iter().filter_map(|client| client["outcome"].as_str()).collect();
        let (waiting, licensed) = outcomes.split_at(4.min(outcomes.len()));
        ensure!(
            waiting == ["notEnoughClients"; 4] && licensed == ["licensed"; 2],
            "through the relays: {clients:?}"
        );
        let said = self.kmsctl(&["explain-route", "192.0.2.9", "kms", "-n", TRIAL])?;
        ensure!(said.contains("stand-in"), "explain-route: {said}");
        for condition in ["HostsAnswer", "Ready"] {
            self.kubectl(&format!(
                "-n {TRIAL} wait --for=condition={condition} officekmshost/kms {PATIENCE}"
            ))?;
        }
        // What the replicas see is asked through the API server, as a client of the cluster must. Its ledger may have found no
        // second volume, which the status does not pass over.
        let said = self.kmsctl_at(&["status", "kms", "-n", TRIAL])?;
        let said = String::from_utf8(said.stdout)?;
        let row = said.lines().find(|line| line.contains("stand-in")).unwrap_or_default();
        ensure!(
            row.contains("well") && (row.contains("active") || row.contains("warming")),
            "status: {said}"
        );
        self.kubectl(&format!("-n {TRIAL} delete officekmshosts stand-in kms {PATIENCE}"))?;
        Ok(())
    }

    /// What people ask on a cluster is answered, by kmsctl and as a plugin of kubectl.
    fn people_look(&self) -> Result<()> {
        let said = self.kmsctl(&["status", "rehearsal", "-n", TRIAL])?;
        ensure!(said.contains("3/3"), "status: {said}");
        let said = self.kmsctl(&["doctor", "rehearsal", "-n", TRIAL])?;
        ensure!(!said.contains("error"), "doctor: {said}");
        let said = self.kmsctl(&["events", "rehearsal", "-n", TRIAL])?;
        ensure!(said.contains("pc"), "events: {said}");
        let plugin = self.plugin(&["status", "rehearsal", "-n", TRIAL])?;
        ensure!(plugin.contains("3/3"), "kubectl officekms: {plugin}");
        Ok(())
    }

    /// The leader's pod is killed, and the other pod leads.
    fn another_leads(&self) -> Result<()> {
        let leader = || -> Result<String> {
            let lease = self.json(&format!("-n {SYSTEM} get lease officekms-operator"))?;
            let holder = text(&lease, "/spec/holderIdentity");
            Ok(holder.split('_').next().unwrap_or_default().to_owned())
        };
        let before = leader()?;
        let standing_by: Vec<String> = self.operator_pods()?.into_keys().filter(|pod| *pod != before).collect();
        ensure!(standing_by.len() == 1, "{before} leads; beside it: {standing_by:?}");
        self.kubectl(&format!("-n {SYSTEM} delete pod {before} --grace-period=0 --force"))?;
        let until = Instant::now() + Duration::from_secs(120);
        while leader()? == before || leader()?.is_empty() {
            ensure!(Instant::now() < until, "nobody leads after {before}");
            std::thread::sleep(Duration::from_secs(1));
        }
        // It works: what is deleted by hand comes back.
        self.kubectl(&format!("-n {TRIAL} delete service rehearsal"))?;
        self.kubectl(&format!("-n {TRIAL} wait --for=create service/rehearsal {PATIENCE}"))?;
        self.kubectl(&format!(
            "-n {SYSTEM} rollout status deployment/officekms-operator {PATIENCE}"
        ))?;
        Ok(())
    }

    /// Deletes what the story made, and finds nothing left.
    fn clean_up(&self) -> Result<()> {
        let deleted = self.kubectl(&format!(
            "-n {TRIAL} delete officekmshosts --all --ignore-not-found {PATIENCE}"
        ));
        let children = deleted.and_then(|_| {
            self.kubectl(&format!(
                "-n {TRIAL} wait --for=delete {PATIENCE} -l app.kubernetes.io/managed-by=kms-operator \
             deployments,statefulsets,pods,services,serviceaccounts,configmaps,secrets,poddisruptionbudgets,networkpolicies"
            ))
        });
        // A claim carries no label of the operator's; it goes with the StatefulSet that made it.
        let claims = self
            .kubectl(&format!(
                "-n {TRIAL} wait --for=delete pvc/data-rehearsal-redis-0 {PATIENCE}"
            ))
            .and_then(|_| self.kubectl(&format!("-n {TRIAL} get pvc --output=name")));
        // What helm waits for is the Deployment: its pods end after it.
        let released = self.helm("uninstall officekms --wait --timeout 240s").and_then(|_| {
            self.kubectl(&format!(
                "-n {SYSTEM} wait --for=delete {PATIENCE} -l app.kubernetes.io/part-of=officekms pods"
            ))
        });
        self.kubectl(&format!(
            "delete crd officekmshosts.officekms.io --ignore-not-found {PATIENCE}"
        ))?;
        let kinds = self.kubectl("api-resources --verbs=list --output=name")?;
        let kinds: Vec<&str> = kinds.lines().filter(|kind| !kind.starts_with("events")).collect();
        let left = self.kubectl(&format!(
            "get {} --all-namespaces --ignore-not-found --output=name -l app.kubernetes.io/part-of=officekms",
            kinds.join(",")
        ))?;
        self.kubectl(&format!(
            "delete namespace {SYSTEM} {TRIAL} --ignore-not-found {PATIENCE}"
        ))?;
        children?;
        released?;
        let claims = claims?;
        ensure!(claims.trim().is_empty(), "left behind: {claims}");
        ensure!(left.trim().is_empty(), "left behind: {left}");
        Ok(())
    }

    /// Lets rehearsal clients ask through the Service, from a pod, and returns what each was told.
    fn activate(&self, job: &str, first: u32, count: u32) -> Result<Vec<Value>> {
        self.activate_at(job, first, count, "rehearsal", "rehearsal-keys")
    }

    fn activate_at(&self, job: &str, first: u32, count: u32, service: &str, keys: &str) -> Result<Vec<Value>> {
        self.apply(&format!(
            "
apiVersion: batch/v1
kind: Job
metadata: {{name: {job}, namespace: {TRIAL}}}
spec:
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      automountServiceAccountToken: false
      securityContext: {{runAsNonRoot: true, seccompProfile: {{type: RuntimeDefault}}}}
      containers:
        - name: kmsctl
          image: ghcr.io/officekms/kmsctl:{VERSION}
          args: [activate, --count={count}, --first={first}, --host={service}:1688, --site-key-file=/keys/site-key, --output=json]
          securityContext: {{allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {{drop: [ALL]}}}}
          volumeMounts: [{{name: keys, mountPath: /keys, readOnly: true}}]
      volumes: [{{name: keys, secret: {{secretName: {keys}, defaultMode: 292}}}}]
"
        ))?;
        // kmsctl tells by its exit code that clients have to wait, so that the Job may fail.
        let ended = "--for=jsonpath={.status.conditions[*].status}=True";
        let waited = self
            .tools
            .kubectl(["-n", TRIAL, "wait", ended, &format!("job/{job}"), PATIENCE])?
            .ok();
        let log = self.kubectl(&format!("-n {TRIAL} logs job/{job}"))?;
        let report: Value = serde_json::from_str(&log).with_context(|| format!("{waited:?}: {log}"))?;
        let clients = report.get("clients").and_then(Value::as_array);
        Ok(clients.cloned().unwrap_or_default())
    }

    /// The count that a new client with this number is told. As clients do, it comes again while a replica that has lost its
    /// ledger tells it so.
    fn count_of(&self, job: &str, number: u32) -> Result<i64> {
        let mut clients = Vec::new();
        for attempt in 1..=10 {
            clients = self.activate(&format!("{job}-{attempt}"), number, 1)?;
            if let Some(count) = clients.first().and_then(|client| client["currentCount"].as_i64()) {
                return Ok(count);
            }
        }
        bail!("no count: {clients:?}")
    }

    /// Waits until all pods of the trial's host and ledger are there and ready.
    fn settled(&self) -> Result<()> {
        self.kubectl(&format!(
            "-n {TRIAL} rollout status statefulset/rehearsal-redis {PATIENCE}"
        ))?;
        self.kubectl(&format!("-n {TRIAL} rollout status deployment/rehearsal {PATIENCE}"))?;
        self.kubectl(&format!(
            "-n {TRIAL} wait --for=condition=Ready officekmshost/rehearsal {PATIENCE}"
        ))?;
        Ok(())
    }

    /// UIDs and restarts of the host's pods.
    fn host_pods(&self) -> Result<BTreeMap<String, (String, i64)>> {
        self.pods(
            TRIAL,
            "app.kubernetes.io/instance=rehearsal,app.kubernetes.io/component=host",
        )
    }

    fn operator_pods(&self) -> Result<BTreeMap<String, (String, i64)>> {
        self.pods(SYSTEM, "app.kubernetes.io/name=kms-operator")
    }

    fn pods(&self, namespace: &str, selector: &str) -> Result<BTreeMap<String, (String, i64)>> {
        let pods = self.json(&format!("-n {namespace} get pods -l {selector}"))?;
        let alive = items(&pods).filter(|pod| pod.pointer("/metadata/deletionTimestamp").is_none());
        let row = |pod: &Value| {
            let restarts = pod.pointer("/status/containerStatuses/0/restartCount");
            let restarts = restarts.and_then(Value::as_i64).unwrap_or_default();
            let name = text(pod, "/metadata/name").to_owned();
            (name, (text(pod, "/metadata/uid").to_owned(), restarts))
        };
        Ok(alive.map(row).collect())
    }

    /// How many of these pods have answered a client.
    fn pods_that_answered<'a>(&self, pods: impl Iterator<Item = &'a String>) -> Result<usize> {
        let mut answered = 0;
        for pod in pods {
            let metrics = self.kubectl(&format!(
                "get --raw /api/v1/namespaces/{TRIAL}/pods/{pod}:9688/proxy/metrics"
            ))?;
            let line = metrics
                .lines()
                .find(|line| line.starts_with("okms_requests_total{") && line.contains("answered"));
            answered += usize::from(line.is_some_and(|line| !line.ends_with(" 0")));
        }
        Ok(answered)
    }

    fn apply(&self, manifest: &str) -> Result<String> {
        let file = self.tools.values(manifest)?;
        self.kubectl(&format!("apply --server-side -f {file}"))
    }

    /// Runs kmsctl, which was built beside this test.
    fn kmsctl(&self, arguments: &[&str]) -> Result<String> {
        let said = self.kmsctl_at(arguments)?;
        let out = String::from_utf8(said.stdout)?;
        let error = String::from_utf8_lossy(&said.stderr);
        ensure!(
            said.status.success(),
            "kmsctl {arguments:?}: {}: {out}{error}",
            said.status
        );
        Ok(out)
    }

    fn kmsctl_at(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(path("kmsctl")?);
        Ok(command.args(arguments).env("KUBECONFIG", &self.kubeconfig).output()?)
    }

    /// Runs kmsctl as `kubectl officekms`.
    fn plugin(&self, arguments: &[&str]) -> Result<String> {
        let folder = tempfile::tempdir()?;
        std::os::unix::fs::symlink(path("kmsctl")?, folder.path().join("kubectl-officekms"))?;
        let tools = Tools::find()?.on(&self.kubeconfig).with_plugins(folder.path());
        tools.kubectl(["officekms"].iter().chain(arguments))?.ok()
    }

    fn kubectl(&self, arguments: &str) -> Result<String> {
        let said = self.tools.kubectl(arguments.split_whitespace())?;
        said.ok().with_context(|| format!("kubectl {arguments}"))
    }

    fn helm(&self, arguments: &str) -> Result<String> {
        let said = self
            .tools
            .helm(["--namespace", SYSTEM].into_iter().chain(arguments.split_whitespace()))?;
        said.ok().with_context(|| format!("helm {arguments}"))
    }

    fn json(&self, arguments: &str) -> Result<Value> {
        let text = self.kubectl(&format!("{arguments} --output=json"))?;
        Ok(if text.trim().is_empty() {
            Value::Null
        } else {
            serde_json::from_str(&text)?
        })
    }

    /// Prints what helps to see why the story ended early.
    fn tell(&self) {
        let of = |kind: &str| format!("get {kind} --all-namespaces --output=wide");
        let logs = format!("-n {SYSTEM} logs -l app.kubernetes.io/name=kms-operator --tail=60 --prefix");
        for arguments in [of("pods"), of("events"), of("officekmshosts"), logs] {
            println!(
                "$ kubectl {arguments}\n{}",
                self.kubectl(&arguments).unwrap_or_else(|error| format!("{error:#}"))
            );
        }
    }
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list["items"].as_array().into_iter().flatten()
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}
