//! The client's side of an association: whatever a server answers to a bind and a request, the reply is bounded.
//!
//! The first byte says whether the server's bytes begin with a good bind_ack of ours.
#![no_main]

use std::num::NonZeroU32;
use std::sync::Arc;

use bytes::BytesMut;
use kms_host::rpc::client::ClientAssociation;
use kms_host::rpc::{Association, DataRepresentation, Interface, Limits, Offer, Proposal, Reply, TransferSyntax};
use libfuzzer_sys::fuzz_target;

const LIMIT: usize = 512;

fuzz_target!(|data: &[u8]| {
    let Some((&choice, sent)) = data.split_first() else {
        return;
    };
    let proposal = Proposal::like_windows(Interface::KMS);
    let mut client = ClientAssociation::new(LIMIT);
    let mut output = BytesMut::new();
    client.propose(&proposal, &mut output);

    let mut input = BytesMut::new();
    if choice & 1 == 0 {
        let mut server = Association::new(Arc::new(Offer::kms()), Limits::default(), NonZeroU32::MIN, 1688);
        server.receive(&mut output, &mut input).expect("a good bind");
    }
    input.extend_from_slice(sent);
    let Ok(Some(outcome)) = client.outcome(&proposal, &mut input) else {
        return;
    };
    assert!(outcome.syntaxes.len() <= 2 && outcome.results.len() == 3);

    output.clear();
    let Some(syntax) = client.syntaxes().next() else { return };
    assert!(matches!(syntax, TransferSyntax::Ndr | TransferSyntax::Ndr64));
    assert!(client.request(syntax, 0, DataRepresentation::LITTLE_ENDIAN, &[1; 300], &mut output));
    if let Ok(Some(Reply::Stub(stub, _))) = client.reply(&mut input) {
        assert!(stub.len() <= LIMIT);
    }
});
