-- Dead letters that wait are counted every few seconds; requeued ones, which stay, must not make that slow.
CREATE INDEX dead_letters_waiting ON dead_letters (stream) WHERE requeued_at IS NULL;
