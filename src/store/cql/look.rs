//! The reads: each looks into one partition.

macro_rules! looks {
    ($($name:ident = $cql:literal;)*) => {
        /// What can be asked.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub(super) enum Look {
            $(#[doc = $cql] $name,)*
        }

        impl Look {
            /// All of them.
            pub(super) const ALL: &[Self] = &[$(Self::$name,)*];

            /// The statement.
            pub(super) const fn cql(self) -> &'static str {
                match self { $(Self::$name => $cql,)* }
            }

            /// Its name, for what is measured and told.
            pub(super) const fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }
        }
    };
}

looks! {
    Tenants = "SELECT body FROM tenants WHERE cluster = ?";
    Mark = "SELECT DISTINCT cluster, epoch, head, floor, committed, applied, parts, tail FROM journal WHERE tenant = ?";
    Parts = "SELECT body FROM journal WHERE tenant = ? AND commit = ? AND part < ?";
    Devices = "SELECT id, body FROM devices WHERE tenant = ?";
    Entries = "SELECT body FROM event_log WHERE tenant = ? AND bucket = ? AND seq > ? AND seq <= ? LIMIT ?";
    Entry = "SELECT body FROM event_log WHERE tenant = ? AND bucket = ? AND seq = ?";
    Answer = "SELECT body FROM idempotency WHERE tenant = ? AND operation = ? AND key = ?";
    KeyOwner = "SELECT owner FROM key_owners WHERE cluster = ? AND id = ?";
    Key = "SELECT body FROM keys WHERE tenant = ? AND id = ?";
    Keys = "SELECT body FROM keys WHERE tenant = ?";
    Consumers = "SELECT name, body FROM consumers WHERE tenant = ?";
    SessionChanges = "SELECT id, body FROM session_changes WHERE tenant = ? AND device = ? AND id < ? LIMIT ?";
    Values = "SELECT key, body FROM connector_values WHERE tenant = ? AND space = ? AND key >= ? AND key < ? LIMIT ?";
    Message = "SELECT body, state FROM messages WHERE tenant = ? AND device = ? AND chat = ? AND bucket = ? AND id = ?";
    MessagesBefore = "SELECT id, body, state FROM messages WHERE tenant = ? AND device = ? AND chat = ? AND bucket = ? AND id < ? LIMIT ?";
    MessagesAfter = "SELECT id, body, state FROM messages WHERE tenant = ? AND device = ? AND chat = ? AND bucket = ? AND id > ? ORDER BY id ASC LIMIT ?";
    ChatBuckets = "SELECT bucket FROM chat_buckets WHERE tenant = ? AND device = ? AND chat = ?";
    AllChatBuckets = "SELECT chat, bucket FROM chat_buckets WHERE tenant = ? AND device = ?";
    DeviceMessage = "SELECT chat FROM device_messages WHERE tenant = ? AND device = ? AND bucket = ? AND id = ?";
    DeviceMessagesBefore = "SELECT id, chat FROM device_messages WHERE tenant = ? AND device = ? AND bucket = ? AND id < ? LIMIT ?";
    DeviceMessagesAfter = "SELECT id, chat FROM device_messages WHERE tenant = ? AND device = ? AND bucket = ? AND id > ? ORDER BY id ASC LIMIT ?";
    DeviceBuckets = "SELECT bucket FROM device_buckets WHERE tenant = ? AND device = ?";
    Chat = "SELECT body FROM chats WHERE tenant = ? AND device = ? AND chat = ?";
    ChatFaces = "SELECT chat, active_at, unread FROM chats WHERE tenant = ? AND device = ?";
    Outbox = "SELECT chat, id FROM outbox WHERE tenant = ? AND device = ? AND (chat, id) > (?, ?) LIMIT ?";
    Upstream = "SELECT id FROM upstream WHERE tenant = ? AND device = ? AND chat = ? AND shard = ? AND from_me = ? AND upstream_id = ?";
}
