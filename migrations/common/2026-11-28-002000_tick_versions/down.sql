DROP TABLE tick_versions;
