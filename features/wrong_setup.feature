Feature: Wrong set-up
  A worker that can't work as it was set up says what is wrong and what to do, and ends. One that only has
  to wait for a server waits, and says for what.

  @redis-only
  Scenario: An unknown key
    Given the setting STORAGE_REDIS__NONSENSE is "1"
    When hot-writer, warm-syncer, aggregator-admin, backup-runner are started
    Then each exits 64 and says "NONSENSE"

  @redis-only
  Scenario: A configuration file with an unknown key
    Given a configuration file with "[redis]\nnonsense = 1"
    When hot-writer, warm-syncer, aggregator-admin, backup-runner are started with `--config <folder>/storage.toml`
    Then each exits 64 and says "nonsense"

  @redis-only
  Scenario: A URL that is none
    When hot-writer, warm-syncer, aggregator-admin, backup-runner are started with `--redis-url http://localhost`
    Then each exits 64 and says "not the URL of a Redis"

  @redis-only
  Scenario: A wrong flag
    When hot-writer, warm-syncer, aggregator-admin, backup-runner are started with `--nonsense`
    Then each exits 64 and says "--nonsense"

  @redis-only
  Scenario: A number or a duration of zero that means nothing
    When each number and each duration in the configuration of each program is set to zero
    Then each program refuses it, exits 64 and names the setting, unless zero has a meaning:
      | postgres.statement_timeout | no limit                                      |
      | hot.close_grace            | a minute is closed as soon as it has ended    |
      | warm.batch_wait            | a batch takes what is there                   |
      | admin.rollup_collect       | every range is refreshed by itself            |
      | backup.redis_every         | no backups of Redis                           |
      | backup.postgres_every      | no logical backups of the database            |
      | backup.base_every          | no base backups                               |
      | backup.verify_every        | no checks                                     |
      | backup.keep_daily          | no backup stays for its day                   |
      | backup.keep_weekly         | no backup stays for its week                  |
      | backup.leftovers_after     | leftovers go with the next prune              |

  Scenario: Another number of partitions than Redis holds
    Given migrated stores
    When hot-writer, warm-syncer, aggregator-admin are started with `--set stream.partitions=8`
    Then each exits 64 and says "partitions is 4 in Redis but 8 in the configuration"

  @redis-only
  Scenario: A Redis without the functions
    Given Redis prepared for a hot-writer
    And every function is removed from Redis
    When hot-writer are started
    Then each exits 64 and says "run `aggregator-admin migrate`"

  Scenario: Old functions
    Given migrated stores
    And the functions in Redis are of version 0
    When hot-writer are started
    Then each exits 64 and says "the functions in Redis are version 0"
    When I run `aggregator-admin migrate`
    Then it exits 0
    And it says "functions: loaded version"

  Scenario: A database without the schema
    Given Redis prepared for a hot-writer
    And an empty database
    When warm-syncer, aggregator-admin are started
    Then each exits 64 and says "run `aggregator-admin migrate`"

  Scenario: Two databases for one Redis
    Given migrated stores
    And another database that was set up for another Redis
    When warm-syncer, aggregator-admin are started
    Then each exits 64 and says "run `aggregator-admin migrate --adopt-database`"
    When I run `aggregator-admin migrate`
    Then it exits 64
    And it says "Redis belongs to database"
    When I run `aggregator-admin migrate --adopt-database`
    Then it exits 0
    And it says "instead of"
    When the warm-syncer is started
    And the aggregator-admin is started
    And I run `aggregator-admin status`
    Then it exits 0

  Scenario: A Redis that names no database
    Given migrated stores
    And Redis says no longer which database it belongs to
    When warm-syncer, aggregator-admin are started
    Then each exits 64 and says "run `aggregator-admin migrate`"
    When I run `aggregator-admin migrate`
    Then it exits 0
    When the warm-syncer is started
    And the aggregator-admin is started

  @own-redis @redis-only
  Scenario: A wrong password for Redis
    Given Redis prepared for a hot-writer
    And workers with the password "wrong-password" for Redis
    When hot-writer are started
    Then each exits 64 and says "Password authentication failed"
    And nothing they say holds "wrong-password"

  @apache
  Scenario: A wrong password for the database
    Given migrated stores
    And a database server that wants a password, and workers with the password "wrong-password"
    When warm-syncer, aggregator-admin are started
    Then each exits 64 and says "password authentication failed"
    And nothing they say holds "wrong-password"

  @own-redis
  Scenario: Servers that are down are waited for
    Given migrated stores
    And Redis is down
    When the hot-writer is started without waiting for readiness
    And the warm-syncer is started without waiting for readiness
    Then the hot-writer is not ready and reports "redis"
    And the warm-syncer is not ready and reports "redis"
    When Redis is started again
    Then the hot-writer becomes ready
    And the warm-syncer becomes ready

  @own-redis
  Scenario: A default user of Redis who may not run what the append-only file holds
    Given migrated stores
    And a Redis whose ACL file contains "user default off resetpass resetkeys resetchannels -@all"
    When hot-writer, warm-syncer, aggregator-admin are started
    Then each exits 64 and says "ACL SETUSER default off resetpass ~* &* +@all"
    When I run `aggregator-admin migrate`
    Then it exits 64
    And it says "so the next restart loses it"
    When I run `aggregator-admin status`
    Then it exits 1
    And it says "may not run what the append-only file holds"
    When I send `ACL SETUSER default off resetpass ~* &* +@all` to Redis
    And I send `ACL SAVE` to Redis
    And I run `aggregator-admin migrate`
    Then it exits 0
    When I run `aggregator-admin status`
    Then it exits 0

  @own-redis
  Scenario: A Redis that removes streams when it is full
    Given migrated stores
    When I send `CONFIG SET maxmemory-policy allkeys-lru` to Redis
    And hot-writer, warm-syncer, aggregator-admin are started
    Then each exits 64 and says "CONFIG SET maxmemory-policy noeviction"
    When I run `aggregator-admin migrate`
    Then it exits 64
    And it says "which removes streams with unread entries"
    When I send `CONFIG SET maxmemory-policy volatile-lru` to Redis
    And I run `aggregator-admin migrate`
    Then it exits 0
    And it says "which removes open candles and leases"
    When I send `CONFIG SET maxmemory-policy noeviction` to Redis
    And I run `aggregator-admin status`
    Then it exits 0
    And it does not say "maxmemory-policy"

  @own-redis
  Scenario: A Redis that begins to remove streams while the workers run
    Given a running pipeline
    When I send `CONFIG SET maxmemory-policy allkeys-random` to Redis
    Then the aggregator-admin is not ready and reports "maxmemory-policy"
    And the metric aggregator_admin_redis_setting_faults of the aggregator-admin is 1
    When I send `CONFIG SET maxmemory-policy noeviction` to Redis
    Then the aggregator-admin becomes ready
    And the metric aggregator_admin_redis_setting_faults of the aggregator-admin is 0
