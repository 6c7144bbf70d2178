/*
 * pin FILE: keeps FILE wholly in the page cache (mlock) until its input ends. Prints "ready", or "refused" where the
 * system does not allow that much locked memory. Built by the benchmark: gcc -O2 -o pin pin.c
 */
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

int main(int count, char **values) {
  struct stat facts;
  int fd = count == 2 ? open(values[1], O_RDONLY) : -1;
  if (fd < 0 || fstat(fd, &facts)) return 1;
  void *at = mmap(NULL, facts.st_size, PROT_READ, MAP_SHARED, fd, 0);
  puts(at != MAP_FAILED && mlock(at, facts.st_size) == 0 ? "ready" : "refused");
  fflush(stdout);
  for (char c; read(0, &c, 1) == 1;) {}
  return 0;
}
