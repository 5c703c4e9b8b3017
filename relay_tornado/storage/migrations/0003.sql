-- Consumers of every kind, what they try again, and what they gave up; which copies of events were edited; when tokens
-- were last used.

ALTER TABLE event ADD COLUMN edited INTEGER NOT NULL DEFAULT 0 CHECK (edited IN (0, 1));

ALTER TABLE token ADD COLUMN used_at INTEGER;

ALTER TABLE consumer RENAME TO queue;

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

INSERT INTO consumer (log, kind, name, floor, created_at, updated_at)
SELECT log, 'events', CAST(output AS TEXT), min(floor, (SELECT head FROM log WHERE log.id = queue.log)), now, now
FROM queue, (SELECT CAST(strftime('%s', 'now') AS REAL) AS now) WHERE queue.name = 'events';

DROP TABLE queue;

CREATE TABLE parked (
    consumer INTEGER NOT NULL REFERENCES consumer (id) ON DELETE CASCADE,
    seq INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    due REAL NOT NULL,
    since REAL NOT NULL,
    PRIMARY KEY (consumer, seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE dead_letter (
    consumer INTEGER NOT NULL REFERENCES consumer (id) ON DELETE CASCADE,
    seq INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    since REAL NOT NULL,
    at REAL NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (consumer, seq)
) STRICT, WITHOUT ROWID;

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

PRAGMA user_version = 3;
