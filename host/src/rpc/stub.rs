//! Stubs of the KMS operation (opnum 0) in NDR 2.0 and NDR64 1.0.
//!
//! In: the size of the request body, and the body as a conformant array. Out: the size of the response body, a unique
//! pointer to it as a conformant array, and an HRESULT. The body is opaque bytes here.
//!
//! ```text
//!            NDR                                   NDR64
//! request    size u32, max u32, body               size u32, pad 4, max u64, body
//! response   size u32, ptr u32, [max u32, body],   size u32, pad 4, ptr u64, [max u64, body],
//!            pad to 4, hresult u32                 pad to 4, hresult u32
//! ```

use bytes::{Bytes, BytesMut};
use thiserror::Error;

use super::fault::FaultStatus;
use super::reader::ByteOrder;
use super::reader::{Reader, Truncated, Writer};
use super::syntax::TransferSyntax;

/// Bytes that may follow a stub's last value: padding to the largest alignment that the transfer syntaxes know.
const MOST_PADDING: usize = 15;

/// The referent that stands for "not null"; any other number would do as well.
const REFERENT: u32 = 0x0002_0000;

/// Why stub data does not unmarshal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum StubError {
    /// The stub ends before its last value.
    #[error("the stub ends before its last value")]
    Truncated,
    /// The size parameter and the array's own count differ.
    #[error("the stub gives {size} bytes as size, but its array counts {count}")]
    SizeMismatch {
        /// The size parameter, in bytes.
        size: u32,
        /// The array's maximum count, in bytes.
        count: u64,
    },
    /// The body is larger than allowed.
    #[error("a body of {size} bytes is above the limit of {limit} bytes")]
    TooLarge {
        /// The size parameter, in bytes.
        size: u32,
        /// The limit, in bytes.
        limit: usize,
    },
    /// More follows the last value than padding.
    #[error("{0} bytes follow the stub's last value")]
    Trailing(usize),
    /// A null pointer comes with a size.
    #[error("the stub gives {0} bytes as size, but its pointer is null")]
    NullWithSize(u32),
}

impl StubError {
    /// The fault that tells a client of it.
    #[must_use]
    pub const fn fault(&self) -> FaultStatus {
        FaultStatus::BAD_STUB_DATA
    }
}

impl From<Truncated> for StubError {
    fn from(_: Truncated) -> Self {
        Self::Truncated
    }
}

/// What the operation returns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The response body, if the pointer is not null.
    pub body: Option<Bytes>,
    /// The return value: 0, or why the host refuses.
    pub hresult: u32,
}

/// Marshals a request. `body` must be shorter than 4 GiB.
#[must_use]
pub fn encode_request(syntax: TransferSyntax, order: ByteOrder, body: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(16 + body.len());
    let mut writer = Writer::new(&mut out, order);
    writer.u32(u32::try_from(body.len()).unwrap_or(u32::MAX));
    write_array(&mut writer, syntax, body);
    out.freeze()
}

/// Unmarshals a request whose body has at most `limit` bytes. The body shares the stub's memory.
///
/// # Errors
/// [`StubError`] when it is no such stub; the client is at fault.
pub fn decode_request(
    syntax: TransferSyntax,
    order: ByteOrder,
    stub: &Bytes,
    limit: usize,
) -> Result<Bytes, StubError> {
    let mut reader = Reader::new(stub, order);
    let size = reader.u32()?;
    let body = read_array(&mut reader, syntax, size, limit, stub)?;
    finish(&reader)?;
    Ok(body)
}

/// Marshals a response; `None` is a null pointer. `body` must be shorter than 4 GiB.
#[must_use]
pub fn encode_response(syntax: TransferSyntax, order: ByteOrder, body: Option<&[u8]>, hresult: u32) -> Bytes {
    let mut out = BytesMut::with_capacity(32 + body.map_or(0, <[u8]>::len));
    let mut writer = Writer::new(&mut out, order);
    writer.u32(body.map_or(0, |body| u32::try_from(body.len()).unwrap_or(u32::MAX)));
    let referent = if body.is_some() { REFERENT } else { 0 };
    match syntax {
        TransferSyntax::Ndr => writer.u32(referent),
        TransferSyntax::Ndr64 => {
            writer.align(8);
            writer.u64(u64::from(referent));
        }
    }
    if let Some(body) = body {
        write_array(&mut writer, syntax, body);
    }
    writer.align(4);
    writer.u32(hresult);
    out.freeze()
}

/// Unmarshals a response whose body has at most `limit` bytes. The body shares the stub's memory.
///
/// # Errors
/// [`StubError`] when it is no such stub; the server is at fault.
pub fn decode_response(
    syntax: TransferSyntax,
    order: ByteOrder,
    stub: &Bytes,
    limit: usize,
) -> Result<Response, StubError> {
    let mut reader = Reader::new(stub, order);
    let size = reader.u32()?;
    let referent = match syntax {
        TransferSyntax::Ndr => u64::from(reader.u32()?),
        TransferSyntax::Ndr64 => {
            reader.align(8)?;
            reader.u64()?
        }
    };
    let body = if referent != 0 {
        Some(read_array(&mut reader, syntax, size, limit, stub)?)
    } else if size != 0 {
        return Err(StubError::NullWithSize(size));
    } else {
        None
    };
    reader.align(4)?;
    let hresult = reader.u32()?;
    finish(&reader)?;
    Ok(Response { body, hresult })
}

fn write_array(writer: &mut Writer<'_>, syntax: TransferSyntax, body: &[u8]) {
    match syntax {
        TransferSyntax::Ndr => writer.u32(u32::try_from(body.len()).unwrap_or(u32::MAX)),
        TransferSyntax::Ndr64 => {
            writer.align(8);
            writer.u64(body.len() as u64);
        }
    }
    writer.bytes(body);
}

fn read_array(
    reader: &mut Reader<'_>,
    syntax: TransferSyntax,
    size: u32,
    limit: usize,
    stub: &Bytes,
) -> Result<Bytes, StubError> {
    let count = match syntax {
        TransferSyntax::Ndr => u64::from(reader.u32()?),
        TransferSyntax::Ndr64 => {
            reader.align(8)?;
            reader.u64()?
        }
    };
    if count != u64::from(size) {
        return Err(StubError::SizeMismatch { size, count });
    }
    let length = usize::try_from(size).ok().filter(|length| *length <= limit);
    let length = length.ok_or(StubError::TooLarge { size, limit })?;
    Ok(stub.slice_ref(reader.take(length)?))
}

fn finish(reader: &Reader<'_>) -> Result<(), StubError> {
    match reader.remaining() {
        0..=MOST_PADDING => Ok(()),
        trailing => Err(StubError::Trailing(trailing)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: usize = 1024;

    fn hex(text: &str) -> Bytes {
        crate::rpc::testdata::hex(text).freeze()
    }

    fn syntax() -> impl Strategy<Value = TransferSyntax> {
        prop_oneof![Just(TransferSyntax::Ndr), Just(TransferSyntax::Ndr64)]
    }

    fn order() -> impl Strategy<Value = ByteOrder> {
        prop_oneof![Just(ByteOrder::Little), Just(ByteOrder::Big)]
    }

    #[test]
    fn requests_are_laid_out_as_ndr_and_ndr64_say() {
        use {ByteOrder::*, TransferSyntax::*};
        for (syntax, order, stub) in [
            (Ndr, Little, "03000000 03000000 aabbcc"),
            (Ndr, Big, "00000003 00000003 aabbcc"),
            (Ndr64, Little, "03000000 00000000 0300000000000000 aabbcc"),
            (Ndr64, Big, "00000003 00000000 0000000000000003 aabbcc"),
        ] {
            assert_eq!(
                encode_request(syntax, order, &[0xaa, 0xbb, 0xcc]),
                hex(stub),
                "{syntax} {order:?}"
            );
        }
    }

    #[test]
    fn responses_are_laid_out_as_ndr_and_ndr64_say() {
        use {ByteOrder::*, TransferSyntax::*};
        for (syntax, order, stub) in [
            (Ndr, Little, "03000000 00000200 03000000 aabbcc 00 0d000780"),
            (Ndr, Big, "00000003 00020000 00000003 aabbcc 00 8007000d"),
            (
                Ndr64,
                Little,
                "03000000 00000000 0000020000000000 0300000000000000 aabbcc 00 0d000780",
            ),
        ] {
            let encoded = encode_response(syntax, order, Some(&[0xaa, 0xbb, 0xcc]), 0x8007_000D);
            assert_eq!(encoded, hex(stub), "{syntax} {order:?}");
        }
        assert_eq!(encode_response(Ndr, Little, None, 5), hex("00000000 00000000 05000000"));
        assert_eq!(
            encode_response(Ndr64, Little, None, 5),
            hex("00000000 00000000 0000000000000000 05000000")
        );
    }

    #[test]
    fn a_stub_that_is_not_canonical_is_refused() {
        use StubError::*;
        let decode = |stub: &str| decode_request(TransferSyntax::Ndr, ByteOrder::Little, &hex(stub), 4);
        assert_eq!(
            decode("03000000 04000000 aabbccdd"),
            Err(SizeMismatch { size: 3, count: 4 })
        );
        assert_eq!(
            decode("05000000 05000000 aabbccddee"),
            Err(TooLarge { size: 5, limit: 4 })
        );
        assert_eq!(
            decode("ffffffff ffffffff aabbccddee"),
            Err(TooLarge {
                size: u32::MAX,
                limit: 4
            })
        );
        assert_eq!(decode("03000000 03000000 aabb"), Err(Truncated));
        assert_eq!(
            decode(&format!("01000000 01000000 aa {}", "00".repeat(15))),
            Ok(hex("aa"))
        );
        assert_eq!(
            decode(&format!("01000000 01000000 aa {}", "00".repeat(16))),
            Err(Trailing(16))
        );
        let response = |stub: &str| decode_response(TransferSyntax::Ndr, ByteOrder::Little, &hex(stub), 4);
        assert_eq!(response("01000000 00000000 00000000"), Err(NullWithSize(1)));
        assert_eq!(
            decode_request(
                TransferSyntax::Ndr64,
                ByteOrder::Little,
                &hex("01000000 00000000 0100000001000000 aa"),
                4
            ),
            Err(SizeMismatch {
                size: 1,
                count: 0x1_0000_0001
            })
        );
    }

    proptest! {
        #[test]
        fn requests_come_back(syntax in syntax(), order in order(), body in prop::collection::vec(any::<u8>(), 0..LIMIT)) {
            let stub = encode_request(syntax, order, &body);
            prop_assert_eq!(decode_request(syntax, order, &stub, LIMIT).unwrap(), body);
        }

        #[test]
        fn responses_come_back(
            syntax in syntax(),
            order in order(),
            body in prop::option::of(prop::collection::vec(any::<u8>(), 0..LIMIT)),
            hresult: u32,
        ) {
            let stub = encode_response(syntax, order, body.as_deref(), hresult);
            let response = decode_response(syntax, order, &stub, LIMIT).unwrap();
            prop_assert_eq!(response, Response { body: body.map(Bytes::from), hresult });
        }

        #[test]
        fn no_bytes_panic_or_exceed_the_limit(
            syntax in syntax(),
            order in order(),
            stub in prop::collection::vec(prop_oneof![Just(0u8), Just(4), any::<u8>()], 0..64),
            limit in 0usize..16,
        ) {
            let stub = Bytes::from(stub);
            if let Ok(body) = decode_request(syntax, order, &stub, limit) {
                prop_assert!(body.len() <= limit);
            }
            if let Ok(Response { body: Some(body), .. }) = decode_response(syntax, order, &stub, limit) {
                prop_assert!(body.len() <= limit);
            }
        }
    }
}
