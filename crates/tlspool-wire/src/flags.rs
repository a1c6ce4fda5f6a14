//! Flag words. Unknown bits are kept as they came and otherwise ignored.

/// Defines a flag word: a transparent `u32` with named bits.
macro_rules! flag_word {
    ($(#[$doc:meta])* $name:ident { $($(#[$bit_doc:meta])* $bit:ident = $value:expr;)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct $name(pub u32);

        impl $name {
            $($(#[$bit_doc])* pub const $bit: Self = Self($value);)*

            /// Whether every bit of `other` is set.
            pub const fn contains(self, other: Self) -> bool {
                self.0 & other.0 == other.0
            }

            /// Whether any bit of `other` is set.
            pub const fn intersects(self, other: Self) -> bool {
                self.0 & other.0 != 0
            }

            /// With the bits of `other` cleared.
            #[must_use]
            pub const fn without(self, other: Self) -> Self {
                Self(self.0 & !other.0)
            }
        }

        impl std::ops::BitOr for $name {
            type Output = Self;
            fn bitor(self, other: Self) -> Self {
                Self(self.0 | other.0)
            }
        }

        impl std::ops::BitAnd for $name {
            type Output = Self;
            fn bitand(self, other: Self) -> Self {
                Self(self.0 & other.0)
            }
        }
    };
}

flag_word! {
    /// Flags of STARTTLS. No flag means: identities are required and validated. A flag that
    /// grants freedom is returned set only when that freedom was used.
    StarttlsFlags {
        /// We may be the TLS client.
        LOCALROLE_CLIENT = 0x1;
        /// We may be the TLS server.
        LOCALROLE_SERVER = 0x2;
        /// Either (both bits).
        LOCALROLE_PEER = 0x3;
        /// The other side may be the TLS client.
        REMOTEROLE_CLIENT = 0x4;
        /// The other side may be the TLS server.
        REMOTEROLE_SERVER = 0x8;
        /// Either (both bits).
        REMOTEROLE_PEER = 0xc;
        /// Datagram TLS.
        DTLS = 0x100;
        /// Send no server name indication (RFC 6066 section 3).
        WITHOUT_SNI = 0x200;
        /// Do not read caches of validation results.
        IGNORE_CACHES = 0x400;
        /// Ask the peer for an identity, do not require it.
        REQUEST_REMOTEID = 0x800;
        /// Do not ask for, and do not validate, the peer's identity; overrides REQUEST_REMOTEID.
        IGNORE_REMOTEID = 0x1000;
        /// Detach the session as soon as it stands.
        DETACH = 0x2000;
        /// The session outlives this connection.
        FORK = 0x4000;
        /// A credential of a domain answers for the domain's users.
        DOMAIN_REPRESENTS_USER = 0x8000;
        /// Ask by callback which local identity to use.
        LOCALID_CHECK = 0x1_0000;
        /// Renegotiate the session named by ctlkey.
        RENEGOTIATE = 0x2_0000;
        /// A certificate for localid may be made on the fly.
        LOCALID_ONTHEFLY = 0x4_0000;
    }
}

flag_word! {
    /// Flags of the LIDENTRY commands. A registration says with `SKIP_` when it need not be asked: if all
    /// that it sets hold of the entry that the table of disclosures has.
    LidentryFlags {
        /// There is an entry (in all `SKIP_` flags).
        SKIP_DBENTRY = 0x80;
        /// It has the remote's user, if the remote has one.
        SKIP_USER = 0x81;
        /// It is for the remote's own domain.
        SKIP_DOMAIN_SAME = 0x82;
        /// It is for the domain one label up.
        SKIP_DOMAIN_ONEUP = 0x84;
        /// One of these two.
        SKIP_DOMAIN_SUB = 0x86;
        /// It is not for any domain at all.
        SKIP_NOTROOT = 0x88;
        /// Show the table's entries, one by one, before the question.
        WANT_DBENTRY = 0x100;
        /// Show the other identities that could be chosen too. An addition of this pool.
        WANT_CANDIDATES = 0x200;
        /// The flags of a registration, which its callbacks repeat.
        REGFLAGS = 0xfff;
        /// This callback shows an entry of the table, or with `CANDIDATE` another identity.
        DBENTRY = 0x1000;
        /// Remember the choice, before others.
        DBINSERT = 0x2000;
        /// Remember the choice, after others.
        DBAPPEND = 0x4000;
        /// With one of these: move a choice that is remembered already.
        DBREORDER = 0x8000;
        /// What this callback shows is not in the table. An addition of this pool.
        CANDIDATE = 0x1_0000;
        /// The identity will be there soon: wait for it.
        NEW = 0x10_0000;
        /// Make the identity on the fly.
        ONTHEFLY = 0x20_0000;
    }
}

flag_word! {
    /// What a pool can do, exchanged by PING.
    Facilities {
        /// TLS.
        STARTTLS = 0x1;
        /// GSS-API: not offered by this pool.
        STARTGSS = 0x2;
        /// SSH: not offered by this pool.
        STARTSSH = 0x4;
        /// What is current: STARTTLS.
        ALL_CURRENT = 0x1;
        /// Ours: the client understands [`crate::command::DRAINING`].
        DRAIN_NOTICE = 0x8000_0000;
        /// Ours: STARTTLS may bring the pool's end of the plaintext connection as a second
        /// descriptor, and is then not followed by a PLAINTEXT_CONNECT.
        PLAINTEXT_ALONG = 0x4000_0000;
        /// Ours: the pool takes [`crate::command::DATAGRAM`].
        DATAGRAM_FIRST = 0x2000_0000;
    }
}
