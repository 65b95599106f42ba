/* Preloaded into a test server: its wall clock is what the test wrote into ALLOTMENT_TEST_CLOCK.
 *
 * The file holds the microseconds since the epoch twice, as native 64-bit words. The test writes the
 * first word first and this reads the second one first, so two equal words are never half a write.
 * CLOCK_MONOTONIC is left alone: event loops and script time limits keep running. There is no malloc
 * here: an allocator that asks for the time while it starts must not be called back.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const uint64_t *words;

/* A server that silently kept the real time would make its tests lie, so it does not start. */
__attribute__((constructor)) static void map_clock(void) {
  const char *path = getenv("ALLOTMENT_TEST_CLOCK");
  int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  void *page = file < 0 ? MAP_FAILED : mmap(NULL, 2 * sizeof *words, PROT_READ, MAP_SHARED, file, 0);
  if (page == MAP_FAILED) _exit(97);
  close(file);
  words = page;
}

static uint64_t now_us(void) {
  uint64_t first, second;
  if (!words) map_clock(); /* another library's constructor asks before ours has run */
  do {
    second = __atomic_load_n(&words[1], __ATOMIC_ACQUIRE);
    first = __atomic_load_n(&words[0], __ATOMIC_ACQUIRE);
  } while (first != second);
  return first;
}

int gettimeofday(struct timeval *restrict tv, void *restrict zone) {
  uint64_t us = now_us();
  (void)zone;
  tv->tv_sec = (time_t)(us / 1000000);
  tv->tv_usec = (suseconds_t)(us % 1000000);
  return 0;
}

time_t time(time_t *out) {
  time_t seconds = (time_t)(now_us() / 1000000);
  if (out) *out = seconds;
  return seconds;
}
