/* Linked into the static build of pangolin-connector (scripts/static.sh).
 *
 * The C library looks names up as /etc/nsswitch.conf says, and loads a module for all but files and DNS, which are built
 * into it. A static program cannot rely on modules: they are those of another version of the library, where there are any.
 * So names are looked up in /etc/hosts and in DNS, whatever that file says. */
extern int __nss_configure_lookup(const char *database, const char *services);

__attribute__((constructor)) static void files_and_dns_only(void) {
    __nss_configure_lookup("hosts", "files dns");
}
