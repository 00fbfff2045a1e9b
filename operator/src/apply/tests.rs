use serde_json::json;

use super::*;
use crate::kinds::KINDS;

fn service() -> DynamicObject {
    serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kms", "namespace": "a", "labels": {"app": "kms"}},
        "spec": {"type": "ClusterIP"}
    }))
    .expect("an object")
}

/// A Service as the API server shows it after `wish` was applied for the resource with the UID `u`.
fn live(wish: &Wish) -> ObjectMeta {
    serde_json::from_value(json!({
        "name": "kms", "namespace": "a", "uid": "s", "resourceVersion": "1",
        "annotations": {APPLIED_ANNOTATION: wish.hash},
        "ownerReferences": [{"apiVersion": "officekms.io/v1alpha1", "kind": "OfficeKmsHost", "name": "kms", "uid": "u", "controller": true}],
        "managedFields": [{"manager": FIELD_MANAGER, "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": {
            "f:metadata": {"f:annotations": {format!("f:{APPLIED_ANNOTATION}"): {}}, "f:labels": {"f:app": {}}},
            "f:spec": {"f:type": {}}
        }}]
    }))
    .expect("metadata")
}

fn child(meta: &ObjectMeta) -> Child {
    Child::of(meta, Facts::None)
}

#[test]
fn what_is_as_wished_is_left_alone_and_what_is_not_is_told_apart() {
    let wish = Wish::new(&service()).expect("a wish");
    let good = live(&wish);
    assert_eq!(decide(None, &wish, "u"), Decision::Create);
    assert_eq!(decide(Some(&child(&good)), &wish, "u"), Decision::Keep);

    let mut newer = service();
    newer.data["spec"]["type"] = json!("LoadBalancer");
    let newer = Wish::new(&newer).expect("a wish");
    assert_eq!(decide(Some(&child(&good)), &newer, "u"), Decision::Update);

    let mut drifted = good.clone();
    let mut fields = drifted.managed_fields.take().expect("fields");
    let owned = fields[0].fields_v1.as_mut().expect("fields");
    owned.0.as_object_mut().expect("an object").remove("f:spec");
    fields.push(
        serde_json::from_value(
            json!({"manager": "kubectl-edit", "operation": "Update", "time": "2026-11-24T00:00:00Z"}),
        )
        .expect("an entry"),
    );
    drifted.managed_fields = Some(fields);
    let by = Some("kubectl-edit".to_owned());
    assert_eq!(decide(Some(&child(&drifted)), &wish, "u"), Decision::Repair { by });

    let mut going = good;
    going.deletion_timestamp = Some(serde_json::from_value(json!("2026-11-24T00:00:00Z")).expect("a time"));
    assert_eq!(decide(Some(&child(&going)), &wish, "u"), Decision::Wait);
}

#[test]
fn what_belongs_to_another_is_never_taken() {
    let wish = Wish::new(&service()).expect("a wish");
    let mut others = live(&wish);
    others.owner_references.as_mut().expect("an owner")[0].kind = "Helm".to_owned();
    others.owner_references.as_mut().expect("an owner")[0].uid = "other".to_owned();
    let taken = Decision::Taken {
        by: "Helm/kms".to_owned(),
    };
    assert_eq!(decide(Some(&child(&others)), &wish, "u"), taken);
    others.owner_references = None;
    others.annotations = None;
    assert!(matches!(
        decide(Some(&child(&others)), &wish, "u"),
        Decision::Taken { .. }
    ));
}

#[test]
fn a_child_of_a_resource_that_was_made_anew_is_waited_for_while_it_goes() {
    let wish = Wish::new(&service()).expect("a wish");
    let mut old = live(&wish);
    old.deletion_timestamp = Some(serde_json::from_value(json!("2026-11-24T00:00:00Z")).expect("a time"));
    assert_eq!(decide(Some(&child(&old)), &wish, "another"), Decision::Wait);
}

#[test]
fn what_the_api_server_says_becomes_what_to_do() {
    let status = |code: u16, message: &str, cause: &str| {
        let status = json!({"status": "Failure", "code": code, "message": message, "reason": "", "details": {"causes": [{"reason": cause, "message": "", "field": ""}]}});
        kube::Error::Api(serde_json::from_value(status).expect("a status"))
    };
    let of = |error| ApplyError::of(error, Verb::Patch, &KINDS[0], "a", "kms");
    let said = "serviceaccounts \"kms\" is forbidden: User \"x\" cannot patch resource \"serviceaccounts\" in API group \"\" in the namespace \"a\"";
    let forbidden = of(status(403, said, ""));
    assert_eq!(forbidden.reason(), "Forbidden");
    assert!(
        forbidden
            .to_string()
            .contains("may not patch serviceaccounts in namespace a"),
        "{forbidden}"
    );
    let ends = of(status(
        403,
        "unable to create new content because it is being terminated",
        "NamespaceTerminating",
    ));
    assert_eq!(ends.reason(), "NamespaceTerminating");
    assert!(!ends.needs_people());
    let quota = of(status(403, "exceeded quota: pods", ""));
    assert_eq!(quota.reason(), "Refused");
    assert_eq!(of(status(500, "etcd", "")).reason(), "ApiUnavailable");
    let monitor = KINDS
        .iter()
        .find(|kind| kind.kind == "ServiceMonitor")
        .expect("the kind");
    let missing = ApplyError::of(
        status(404, "the server could not find the requested resource", ""),
        Verb::Patch,
        monitor,
        "a",
        "kms",
    );
    assert_eq!(missing.reason(), "KindMissing");
}
