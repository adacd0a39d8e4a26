// Moving a file, also to another file system.
#ifndef SOCKLEAK_TOOLS_MOVE_FILE_H
#define SOCKLEAK_TOOLS_MOVE_FILE_H

// Moves `name` of the directory open as `dir_fd` to `target`. Between file systems it is copied, a
// hole stays a hole, and what is at `target` already is left there. What others write to it after
// that is not in the copy. Returns 0, or -errno and the file stays where it was.
int move_file(int dir_fd, const char *name, const char *target);

#endif
