DROP TABLE lost_entries;
DROP TABLE verified_days;
