DROP TABLE coverage;
