use super::*;
use crate::rpc::client::{ClientAssociation, Proposal, Reply};
use crate::rpc::pdu::{ContextResult, RejectReason};
use crate::rpc::syntax::Interface;

const GROUP: NonZeroU32 = NonZeroU32::new(0x1234).unwrap();

fn server() -> Association {
    Association::new(Arc::new(Offer::kms()), Limits::default(), GROUP, 1688)
}

/// A client and a server, and the bytes between them.
struct Pair {
    client: ClientAssociation,
    server: Association,
    to_server: BytesMut,
    to_client: BytesMut,
}

impl Pair {
    fn new(server: Association) -> Self {
        let client = ClientAssociation::new(1 << 20);
        Self {
            client,
            server,
            to_server: BytesMut::new(),
            to_client: BytesMut::new(),
        }
    }

    fn bound(server: Association, proposal: &Proposal) -> Self {
        let mut pair = Self::new(server);
        pair.propose(proposal);
        pair
    }

    fn propose(&mut self, proposal: &Proposal) -> crate::rpc::BindOutcome {
        self.client.propose(proposal, &mut self.to_server);
        assert_eq!(self.server.receive(&mut self.to_server, &mut self.to_client), Ok(None));
        self.client.outcome(proposal, &mut self.to_client).unwrap().unwrap()
    }

    fn ask(&mut self, syntax: TransferSyntax, opnum: u16, drep: DataRepresentation, stub: &[u8]) {
        assert!(self.client.request(syntax, opnum, drep, stub, &mut self.to_server));
    }

    fn receive(&mut self) -> Result<Option<Call>, Violation> {
        self.server.receive(&mut self.to_server, &mut self.to_client)
    }

    fn reply(&mut self) -> Reply {
        self.client.reply(&mut self.to_client).unwrap().unwrap()
    }
}

const LE: DataRepresentation = DataRepresentation::LITTLE_ENDIAN;
const BE: DataRepresentation = DataRepresentation::BIG_ENDIAN;

#[test]
fn an_idle_association_is_small() {
    assert!(size_of::<Association>() <= 80, "{}", size_of::<Association>());
}

#[test]
fn a_windows_like_bind_gets_ndr64_and_features_and_a_rejection_of_ndr() {
    let outcome = Pair::new(server()).propose(&Proposal::like_windows(Interface::KMS));
    assert_eq!(
        outcome.results,
        [
            ContextResult::ProviderRejection(RejectReason::TRANSFER_SYNTAXES_NOT_SUPPORTED),
            ContextResult::Accepted(TransferSyntax::Ndr64.id()),
            ContextResult::Features(0b10),
        ]
    );
    assert_eq!(
        (outcome.max_xmit_frag, outcome.max_recv_frag, outcome.assoc_group_id),
        (5840, 5840, GROUP.get())
    );
}

#[test]
fn a_call_and_its_answer_go_through_in_both_byte_orders_and_any_number_of_fragments() {
    let limits = Limits {
        request: 100_000,
        ..Limits::default()
    };
    for syntax in TransferSyntax::ALL {
        for drep in [LE, BE] {
            for length in [0, 1, 300, 5815, 5816, 5817, 30_000] {
                let server = Association::new(Arc::new(Offer::kms()), limits, GROUP, 1688);
                let mut pair = Pair::bound(server, &Proposal::one(Interface::KMS, syntax));
                let stub: Vec<u8> = (0..length).map(|index: usize| index.to_le_bytes()[0]).collect();
                pair.ask(syntax, 0, drep, &stub);
                let call = pair.receive().unwrap().unwrap();
                assert_eq!((call.opnum, call.syntax, call.drep), (0, syntax, drep));
                assert_eq!(call.stub, stub);
                pair.server
                    .answer(&call, Answer::Stub(call.stub.clone()), &mut pair.to_client);
                assert_eq!(pair.reply(), Reply::Stub(Bytes::from(stub), drep));
                assert!(pair.to_client.is_empty() && pair.to_server.is_empty());
            }
        }
    }
}

#[test]
fn an_unknown_operation_is_a_fault_and_the_association_goes_on() {
    let mut pair = Pair::bound(server(), &Proposal::one(Interface::KMS, TransferSyntax::Ndr));
    pair.ask(TransferSyntax::Ndr, 1, LE, &[0; 8]);
    assert_eq!(pair.receive(), Ok(None));
    assert_eq!(pair.reply(), Reply::Fault(FaultStatus::OP_RNG_ERROR));
    pair.ask(TransferSyntax::Ndr, 0, LE, &[7]);
    let call = pair.receive().unwrap().unwrap();
    pair.server
        .answer(&call, Answer::Fault(FaultStatus::SERVER_TOO_BUSY), &mut pair.to_client);
    assert_eq!(pair.reply(), Reply::Fault(FaultStatus::SERVER_TOO_BUSY));
}
