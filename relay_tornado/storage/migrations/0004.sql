-- What holds for a log's events is looked at when its head moves, no more for each of them.

DROP TRIGGER IF EXISTS event_insert;

CREATE TRIGGER log_head BEFORE UPDATE OF head ON log
WHEN NEW.head > OLD.head AND NEW.head - max(OLD.head, NEW.first - 1)
    <> (SELECT count(*) FROM event WHERE log = NEW.id AND seq > OLD.head AND seq <= NEW.head)
BEGIN
    SELECT RAISE(ABORT, 'a log has no hole: its head moves only over events that it holds');
END;

PRAGMA user_version = 4;
