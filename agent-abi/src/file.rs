//! Body of the file family.

use crate::Text;

/// [`FileBody::flags`]: the file did not exist before this open.
pub const FILE_CREATED: u32 = 1;
/// [`FileBody::flags`]: a symbolic link.
pub const FILE_SYMBOLIC: u32 = 2;
/// [`FileBody::flags`]: the paths are as the caller wrote them, behind the directory that they start from: `.`, `..` and
/// repeated slashes are still in them, and links in them were not followed.
pub const FILE_AS_WRITTEN: u32 = 4;

shared! {
    /// A file was opened, removed, renamed, linked, or got another mode or owner. Texts: path, second path (rename: to; link:
    /// the new name).
    pub struct FileBody [24] {
        /// open(2) flags; new mode; new user id.
        pub a: u32,
        /// New group id.
        pub b: u32,
        /// `FILE_*`.
        pub flags: u32,
        /// Paths.
        pub text: [Text; 2],
        /// Zero.
        pub pad: u32,
    }
}
