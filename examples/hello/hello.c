#include <stdio.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	printf("%s, %s: I am process %d of user %d in an image of one file\n", GREETING, argc > 1 ? argv[1] : "world", getpid(), getuid());
	return 0;
}
