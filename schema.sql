-- The present schema of relay.db: a new file is created from it.
-- relay_tornado/storage/migrations/ brings older files to the same schema, and a test compares both.
-- A new file is set to auto_vacuum = INCREMENTAL and journal_mode = WAL before this runs.

-- One row about the file. `id` identifies the database and never changes; `commits` grows with every write transaction
-- and `appended` with every event, so that relay.witness can prove a loss of committed work; `version` is that of the
-- relay that opened the file last.
CREATE TABLE meta (
    singleton INTEGER PRIMARY KEY CHECK (singleton = 1),
    id TEXT NOT NULL,
    commits INTEGER NOT NULL,
    appended INTEGER NOT NULL,
    created_at REAL NOT NULL,
    version TEXT NOT NULL
) STRICT;

-- The registry: records as JSON documents (model.to_document). A bucket's document holds its inputs and outputs.
CREATE TABLE bucket (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    revision INTEGER NOT NULL,
    document TEXT NOT NULL CHECK (json_valid(document))
) STRICT;

-- Claims the ids of inputs, which are unique over all buckets.
CREATE TABLE input (
    id TEXT PRIMARY KEY,
    bucket TEXT NOT NULL REFERENCES bucket (id) ON DELETE CASCADE
) STRICT;

CREATE INDEX input_bucket ON input (bucket);

-- `used_at`: when the token was last used, in unix seconds, to the minute. It is not part of the record.
CREATE TABLE token (
    key TEXT PRIMARY KEY,
    secret_hash TEXT NOT NULL UNIQUE,
    revision INTEGER NOT NULL,
    document TEXT NOT NULL CHECK (json_valid(document)),
    used_at INTEGER
) STRICT;

-- One log per bucket. `first` is the oldest seq kept, `head` the newest committed (not MAX(seq): rows are deleted),
-- `bytes` the size of the events first to head, `last_at` the newest received_at. A dropped log stays until its rows
-- are deleted; its bucket may have another log meanwhile. Ids are never reused.
CREATE TABLE log (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    bucket TEXT NOT NULL,
    dropped INTEGER NOT NULL DEFAULT 0 CHECK (dropped IN (0, 1)),
    first INTEGER NOT NULL DEFAULT 1 CHECK (first BETWEEN 1 AND head + 1),
    head INTEGER NOT NULL DEFAULT 0 CHECK (head >= 0),
    bytes INTEGER NOT NULL DEFAULT 0 CHECK (bytes >= 0),
    last_at REAL NOT NULL DEFAULT 0
) STRICT;

CREATE UNIQUE INDEX log_bucket ON log (bucket) WHERE dropped = 0;

-- The epochs of a log: an epoch begins at `from_seq` and ends where the next one begins.
CREATE TABLE epoch (
    epoch TEXT PRIMARY KEY,
    log INTEGER NOT NULL REFERENCES log (id) ON DELETE CASCADE,
    from_seq INTEGER NOT NULL CHECK (from_seq >= 1)
) STRICT;

CREATE INDEX epoch_log ON epoch (log, from_seq);

-- The events. `size` is the bytes of path, query, headers and body; `crc` a CRC32 of the content (log/rows.py). A row
-- whose `size` exceeds its content is the stub of an ephemeral event, whose content was only in memory. Small columns
-- come before big ones, so that sizes are summed without reading the pages of bodies. In a copy, `resend_of` is the id
-- of the first event, `edited` says whether it was changed, `target` is the number of the output, if it goes to one
-- alone, and `force` says whether rules are ignored. `verified` is the result of the signature check (NULL: none),
-- `verdict` its reason.
CREATE TABLE event (
    log INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    size INTEGER NOT NULL,
    crc INTEGER NOT NULL,
    received_at REAL NOT NULL,
    input_id TEXT NOT NULL,
    method TEXT NOT NULL,
    path BLOB NOT NULL,
    query BLOB NOT NULL,
    headers BLOB NOT NULL,
    remote_ip TEXT NOT NULL,
    body BLOB NOT NULL,
    resend_of TEXT,
    target INTEGER,
    force INTEGER NOT NULL DEFAULT 0 CHECK (force IN (0, 1)),
    verified INTEGER CHECK (verified IN (0, 1)),
    verdict TEXT NOT NULL DEFAULT '',
    edited INTEGER NOT NULL DEFAULT 0 CHECK (edited IN (0, 1)),
    UNIQUE (log, seq)
) STRICT;

-- Digests of appended events, to recognise duplicates, with the event's seq and time. The row may leave at `until`.
CREATE TABLE dedupe (
    log INTEGER NOT NULL,
    hash BLOB NOT NULL,
    seq INTEGER NOT NULL,
    at REAL NOT NULL,
    until REAL NOT NULL,
    PRIMARY KEY (log, hash)
) STRICT, WITHOUT ROWID;

CREATE INDEX dedupe_until ON dedupe (log, until);

-- The results of deliveries: a row for each attempt and each answer, in this order. `output` is the number of the
-- copy's output, 0 for the event itself; `status_code` is 0 if nobody answered. The rows are deleted after their event.
CREATE TABLE delivery (
    id INTEGER PRIMARY KEY,
    log INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    output INTEGER NOT NULL,
    at REAL NOT NULL,
    status TEXT NOT NULL,
    status_code INTEGER NOT NULL,
    duration_ms INTEGER NOT NULL,
    retries INTEGER NOT NULL,
    headers TEXT NOT NULL,
    body BLOB NOT NULL
) STRICT;

CREATE INDEX delivery_event ON delivery (log, seq, output);

-- Positions that the relay keeps: everything up to `floor` is settled, and so are the ranges `done` above it (JSON, a
-- list of [from, to]); `tried` are the ranges in flight, so that a try counts across a crash. `kind` and `name`
-- identify the consumer (log/consumers.py). It is moved by receipts if `receipt` is 1, otherwise by acks, with
-- `ack_wait` in seconds and at most `max_deliver` tries (0: no limit). `gaps` is the number of gaps it met, `gap` the
-- last of them, with the list of those that no client was told of (JSON).
CREATE TABLE consumer (
    id INTEGER PRIMARY KEY,
    log INTEGER NOT NULL REFERENCES log (id) ON DELETE CASCADE,
    kind TEXT NOT NULL CHECK (kind IN ('client', 'token', 'output', 'events')),
    name TEXT NOT NULL,
    floor INTEGER NOT NULL CHECK (floor >= 0),
    done TEXT NOT NULL DEFAULT '[]' CHECK (json_valid(done)),
    tried TEXT NOT NULL DEFAULT '[]' CHECK (json_valid(tried)),
    receipt INTEGER NOT NULL DEFAULT 0 CHECK (receipt IN (0, 1)),
    ack_wait REAL NOT NULL DEFAULT 30,
    max_deliver INTEGER NOT NULL DEFAULT 5,
    gaps INTEGER NOT NULL DEFAULT 0,
    gap TEXT CHECK (json_valid(gap)),
    created_at REAL NOT NULL,
    updated_at REAL NOT NULL,
    UNIQUE (log, kind, name)
) STRICT;

-- The events that a consumer tries again when they are `due`. For `floor` and `done` they count as settled. If an event
-- leaves the log, it becomes a dead letter.
CREATE TABLE parked (
    consumer INTEGER NOT NULL REFERENCES consumer (id) ON DELETE CASCADE,
    seq INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    due REAL NOT NULL,
    since REAL NOT NULL,
    PRIMARY KEY (consumer, seq)
) STRICT, WITHOUT ROWID;

-- The events that a consumer gave up. Those whose `reason` is 'retention' left the log before the consumer was done
-- with them: the newest of these rows are kept. The others are deleted with their events.
CREATE TABLE dead_letter (
    consumer INTEGER NOT NULL REFERENCES consumer (id) ON DELETE CASCADE,
    seq INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    since REAL NOT NULL,
    at REAL NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (consumer, seq)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER delivery_insert BEFORE INSERT ON delivery
WHEN NOT EXISTS (SELECT 1 FROM log WHERE id = NEW.log AND dropped = 0 AND NEW.seq BETWEEN first AND head)
BEGIN
    SELECT RAISE(ABORT, 'a delivery belongs to an event that its log holds');
END;

CREATE TRIGGER consumer_insert BEFORE INSERT ON consumer
WHEN NEW.floor > coalesce((SELECT head FROM log WHERE id = NEW.log AND dropped = 0), -1)
BEGIN
    SELECT RAISE(ABORT, 'a consumer needs a log, and is done with no more than that holds');
END;

CREATE TRIGGER consumer_update BEFORE UPDATE ON consumer
WHEN NEW.id <> OLD.id OR NEW.log <> OLD.log OR NEW.floor > (SELECT head FROM log WHERE id = NEW.log)
BEGIN
    SELECT RAISE(ABORT, 'a consumer keeps its log, and is done with no more than that holds');
END;

CREATE TRIGGER parked_insert BEFORE INSERT ON parked
WHEN NOT EXISTS (
    SELECT 1 FROM consumer JOIN log ON log.id = consumer.log
    WHERE consumer.id = NEW.consumer AND dropped = 0 AND NEW.seq BETWEEN first AND head
)
BEGIN
    SELECT RAISE(ABORT, 'what is parked is an event that the log holds');
END;

CREATE TRIGGER dead_letter_insert BEFORE INSERT ON dead_letter
WHEN NOT EXISTS (
    SELECT 1 FROM consumer JOIN log ON log.id = consumer.log
    WHERE consumer.id = NEW.consumer AND dropped = 0 AND NEW.seq <= head
        AND (NEW.seq >= first OR NEW.reason = 'retention')
)
BEGIN
    SELECT RAISE(ABORT, 'a dead letter is an event that the log holds, or that retention took away');
END;

-- Events are append-only.
CREATE TRIGGER event_update BEFORE UPDATE ON event
BEGIN
    SELECT RAISE(ABORT, 'events are append-only: an event is never changed; append another one');
END;

CREATE TRIGGER event_delete BEFORE DELETE ON event
WHEN OLD.seq >= (SELECT first FROM log WHERE id = OLD.log)
BEGIN
    SELECT RAISE(ABORT, 'events are append-only: raise the first of its log beyond an event before deleting it');
END;

-- A log has no hole. This is checked once per commit: a trigger for each event would take half as long again as storing
-- it.
CREATE TRIGGER log_head BEFORE UPDATE OF head ON log
WHEN NEW.head > OLD.head AND NEW.head - max(OLD.head, NEW.first - 1)
    <> (SELECT count(*) FROM event WHERE log = NEW.id AND seq > OLD.head AND seq <= NEW.head)
BEGIN
    SELECT RAISE(ABORT, 'a log has no hole: its head moves only over events that it holds');
END;

CREATE TRIGGER log_update BEFORE UPDATE ON log
WHEN NEW.id <> OLD.id OR NEW.bucket <> OLD.bucket OR NEW.dropped < OLD.dropped
    OR NEW.first < OLD.first OR NEW.head < OLD.head OR NEW.last_at < OLD.last_at
BEGIN
    SELECT RAISE(ABORT, 'a log only grows: first, head and last_at never go back');
END;

CREATE TRIGGER log_delete BEFORE DELETE ON log
WHEN OLD.dropped = 0 OR EXISTS (SELECT 1 FROM event WHERE log = OLD.id)
BEGIN
    SELECT RAISE(ABORT, 'a log is deleted only after it was dropped and its events are gone');
END;

PRAGMA user_version = 4;
