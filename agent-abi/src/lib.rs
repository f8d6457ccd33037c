//! The byte contract between Hemostat's kernel programs and its agent: records, map keys and values, offsets.
//!
//! Everything is `repr(C)`, without `bool` and without hidden padding; sizes and offsets are asserted at compile time. A
//! record is a [`RecordHeader`], the body of its class and a tail of texts in the order in which the body's [`Text`] fields
//! stand.
#![no_std]

// Declares a `repr(C)` structure that both sides read, with its size asserted.
macro_rules! shared {
    ($(#[$doc:meta])* $vis:vis struct $name:ident [$size:literal] { $($(#[$fdoc:meta])* $fvis:vis $field:ident : $ty:ty),* $(,)? }) => {
        $(#[$doc])*
        #[repr(C)]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[cfg_attr(
            feature = "decode",
            derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout)
        )]
        $vis struct $name { $($(#[$fdoc])* $fvis $field: $ty),* }
        const _: () = assert!(core::mem::size_of::<$name>() == $size, concat!(stringify!($name), " changed its size"));
    };
}

mod class;
mod file;
mod filter;
mod net;
mod offsets;
pub mod quarantine;
mod quick;
mod record;

pub use class::*;
pub use file::*;
pub use filter::*;
pub use net::*;
pub use offsets::*;
pub use quick::*;
pub use record::*;
