package sshtest

import (
	"bytes"
	"crypto/rand"
	"errors"
	"os"
	"os/exec"
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestCommandsAgreeWithRealOnes runs scripts on the machine and, in a directory of its own, under
// bash and the GNU tools, in an environment of its own. Both run as the same kind of user: root, if
// the test does. Output and exit code are the same.
func TestCommandsAgreeWithRealOnes(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("compares with bash and the GNU tools of Linux, which this machine has not")
	}
	// Neither the caller's PATH, whose directories may be ones that may not be read, nor its umask.
	const env = "PATH=/usr/local/bin:/usr/bin:/bin"
	isolated := func(script string) *exec.Cmd {
		cmd := exec.Command("/bin/sh", "-c", `umask 022; exec bash -c "$0"`, script)
		cmd.Env = []string{env, "LC_ALL=C"}
		return cmd
	}
	if out, _ := isolated("sed --version").Output(); !bytes.Contains(out, []byte("GNU sed")) {
		t.Skip("compares with bash and the GNU tools, which are not in " + env + " here")
	}
	h := newHost(t)
	user := "root"
	if os.Getuid() != 0 {
		user = "alice"
		require.NoError(t, h.Disk().AddUser(user))
	}
	// A text that most scripts work on.
	const text = `printf 'alpha 1\nBeta 22\n# comment\n\ngamma.delta=3\nalpha 1\n  indented\tTab\nPermitRootLogin yes\n#PermitRootLogin no\nserver=10.0.0.1 # dns\n' >f
printf 'b:2:x\na:10:y\nc:1:z\na:9:y\n' >g
mkdir -p d/e; echo one >d/1.conf; echo two >d/2.conf; echo three >d/e/3.txt; ln -s 1.conf d/l
`
	for _, script := range []string{
		`cat f g; cat -n g; cat nope; echo $?`,
		`grep alpha f; grep -c alpha f; grep -n '^#' f; grep -v alpha f | head -2; grep -q nope f; echo $?`,
		`grep -i BETA f; grep -E '^(alpha|Beta) [0-9]+$' f; grep 'a\|c' g; grep -x 'alpha 1' f; grep -w root f; echo $?; grep -o '[0-9]\+' f`,
		`grep -F . f; grep -oE '[a-z]+\.[a-z]+' f; grep -l alpha f g; grep -L alpha f g; grep alpha f g; grep -h alpha f g; grep -s x nope; echo $?`,
		`grep '[[:space:]]' f | wc -l; grep -E 'a{2}|22' f; grep 'l\{1\}p' f; grep -e alpha -e Beta f; grep -m 1 alpha f; grep '' g | wc -l`,
		`grep -rh one d; grep -rl t d | sort; echo 'a.b' | grep 'a\.b'; echo 'a+b' | grep 'a+b'; echo 'a+b' | grep -E 'a\+b'; echo '^x' | grep '\^x'; echo 'a^' | grep 'a^'; echo 'a$b' | grep 'a$b'`,
		`sed 's/alpha/X/' f; sed -n '2p' f; sed -n '/^#/p' f; sed '/^$/d' f; sed '2,4d' g; sed -n '$p' f; sed '1!d' f`,
		`sed -E 's/([a-z]+)\.([a-z]+)/\2.\1/' f; sed 's/\(alpha\) \(1\)/\2 \1/' f; sed 's/a/[&]/g' f; sed 's/a/_/2' f; sed 's|/|-|; s,a,b,' g; sed 's/ALPHA/x/I' f`,
		`sed 's/^#*PermitRootLogin.*/PermitRootLogin no/' f; sed -i 's/^alpha/omega/' f; cat f; sed -i.bak '1d' g; cat g g.bak; sed -n '/Beta/,/gamma/p' f; sed -n '2,+1p' f`,
		`sed '1i first' g; sed '$a last' g; sed '/^a/c changed' g; sed '2a\
two\
lines' g; sed -e 1d -e 2d g; sed -n -e '1p;3p' g; sed '1{s/b/B/;s/2/3/}' g; sed '2q' g; sed -n '$=' g; sed 'y/abc/xyz/' g`,
		`sed 's/x*/-/g' g; echo baaac | sed 's/a*/x/g'; echo abc | sed 's/$/!/; s/^/>/; s/$/!/g'; echo abc | sed 's/b*/1/2'; echo aaa | sed 's/^a/b/g'; echo 'a/b' | sed 's/\//|/'; printf 'no newline' | sed s/n/N/; echo 'a[b' | sed 's/[[]/x/'; echo 'a]b' | sed 's/[]]/x/'; sed 0~2d g; sed '/b/!s/a/Q/' g`,
		`sed --expression=s/a/b/ g; sed 's/.*/"&"/' g; echo 'a b' | sed 's/\s/_/; s/\w/W/'; echo x | sed 's/x/a\nb/'; echo 'a&b' | sed 's/&/\&amp;/'; sed -n '/a/{/10/p}' g; sed '/c:1/,$d' g; echo aXb | sed 's/X/\t/'`,
		`cut -d: -f1 g; cut -d: -f1,3 g; cut -d: -f2- g; cut -c1-3 f; echo 'a b' | cut -d: -f2; echo 'a b' | cut -s -d: -f2; cut -d: -f3,1 --output-delimiter=- g`,
		`sort g; sort -t: -k2 -n g; sort -t: -k2,2nr g; sort -r g; sort -u f; sort -t: -k1,1 -k2,2n g; printf '10\n9\n1\n' | sort -n; printf 'v1.10\nv1.9\n' | sort -V; sort -o g g; cat g; sort -c g; echo $?`,
		`uniq f | head -3; sort f | uniq -c | sort -rn | head -1; sort f | uniq -d; printf 'a\na\nb\n' | uniq -u`,
		`head -1 f; head -n 2 f; head -c 5 f; tail -1 f; tail -n 2 f; tail -n +9 f; tail -c 4 f; head -n -8 f; seq 5 | head -3; head -1 f g; tail -n1 f g; seq 3 | tail -n +2 | head -c 1`,
		`wc -l <f; wc -w <f; wc -c <f; wc -l <nope; echo $?; printf 'x' | wc -l; wc </dev/null | tr -s ' '; wc f g; wc -l f g; wc -lc f; echo a | wc -l -w`,
		`tr a-z A-Z <g; tr -d ':\n' <g; echo; tr -s l <f | head -1; tr -cd '0-9\n' <g; tr '[:lower:]' '[:upper:]' <g; echo a:b | tr : '\n'; echo hello | tr -s 'l' 'L'; echo aabb | tr -s a-z`,
		`echo x | tee a b; cat a b; echo y | tee -a a >/dev/null; cat a; seq 3; seq 2 4; seq 10 -5 0; seq -s, 3`,
		`printf 'hello world' | base64; printf 'hello' | base64 | base64 -d; echo; head -c 100 /dev/zero | base64 -w0; echo; sha256sum f; sha256sum f g >s; cp f "a\\b"; sha256sum "a\\b"; rm "a\\b"; sha256sum -c s; echo x >>f; sha256sum -c --quiet s 2>/dev/null; echo $?; md5sum g | cut -c1-32`,
		`find d | sort; find d -name '*.conf' | sort; find d -type f | sort; find d -type d | sort; find d -maxdepth 1 | sort; find d -name 1.conf -delete; ls d; find d -type l; find d -mindepth 1 -maxdepth 1 -type d; find d ! -name '*.conf' | sort`,
		`find d -type f -exec cat {} \; | sort; find d -name '*.conf' -o -name '*.txt' | sort; find d \( -name '*.conf' -o -type l \) -print | sort; find d -type f -print0 | xargs -0 cat | sort; find d -empty; find d -name e -prune -o -type f -print | sort; find nope; echo $?; cd d; find . -name '3*'`,
		`find d -type f -exec grep -l one {} +; find d -perm 644 -type f | sort; find d -newer f -type f | wc -l; find d -size -1k -type f; find d -size 1 -type f | sort; find d -path '*e/*'`,
		`ls d; ls -a d; ls -1 d/e; ls nope; echo $?; ls -d d; ls f g; ls d d/e; ls -A d; ls g f; ls -d g d f nope 2>&1 | sort`,
		`cp f h; cmp f h; echo $?; cp -r d d2; ls d2; cp -a d d3; readlink d3/l; cp d x; echo $?; cp f g d; ls d; cp nope x; echo $?; cp f d/new; cat d/new | head -1`,
		`mv f h; ls; mv h d; ls d; mv d dd; ls dd; mv nope x; echo $?; mv dd/1.conf dd/2.conf; ls dd`,
		`rm f; ls; rm f; echo $?; rm -f f; echo $?; rm d; echo $?; rm -r d; ls; rmdir nope; echo $?; mkdir z; rmdir z; mkdir -p z/y; rmdir z; echo $?`,
		`mkdir a; mkdir a; echo $?; mkdir -p a/b/c; ls a/b; mkdir x/y; echo $?; mkdir -m 700 m; stat -c %a m; mkdir -p f/x; echo $?`,
		`ln -s f l; cat l | head -1; readlink l; readlink f; echo $?; ln -s nope k; cat k; echo $?; ln -sf g l; readlink l; ln -s x l; echo $?; ln f hard; stat -c %h f; ln -sfn d/e s; ln -sfn d s; readlink s`,
		`chmod 600 f; stat -c %a f; chmod u+x,g=r,o= f; stat -c '%a %A' f; chmod -R go-rwx d; stat -c %a d d/e d/1.conf; chmod a+X d f; stat -c %a d f; chmod +x g; stat -c %a g; chmod -x g; stat -c %a g; chmod 1777 d; stat -c '%a %A' d; chmod nope f; echo $?; chmod 4755 f; stat -c %A f; chmod 4644 f; stat -c %A f; chmod g+s d; stat -c %a d`,
		`stat -c '%s %n %F' f d d/l; stat -L -c %F d/l; stat -c %s nope; echo $?; : >e; stat -c %F e; stat --printf='%s\n' g`,
		`touch n; stat -c %s n; touch -d @1000000000 n; stat -c %Y n; touch -r n m; stat -c %Y m; touch -c zz; ls zz; echo $?; touch x/y; echo $?`,
		`t=$(mktemp ./x.XXXXXX); stat -c '%a %s' "$t"; u=$(mktemp -d ./y.XXXXXX); stat -c '%a %F' "$u"; mktemp -p . a.XXX | wc -c; mktemp xx; echo $?`,
		`basename /a/b.c .c; basename /a/b/; dirname /a/b/c; dirname a; dirname /a; basename -a x/1 y/2; dirname a/b/ /`,
		`install -m 600 f x/y; echo $?; install -D -m 640 f x/y; stat -c %a x/y; install -d -m 750 i/j; stat -c %a i/j; install f g d; ls d; stat -c %a d/f`,
		`tar -cf t.tar d; tar -tf t.tar | sort; mkdir o; tar -xf t.tar -C o; find o | sort; cat o/d/e/3.txt; tar -C d -cf - . | tar -tf - | sort; tar czf t.tgz f g; tar tzf t.tgz; tar -xf nope; echo $?; tar -cf - d | tar -xf - -C o --strip-components=1; ls o`,
		`tar -C d -cf - --exclude='*.conf' . | tar -tf - | sort; tar -cf t.tar f; rm f; tar -xvf t.tar; ls f; readlink o/d/l; tar -cf x.tar nope; echo $?`,
		`echo a b | xargs echo x; printf 'a\nb\n' | xargs -n1 echo; printf 'a b\0c' | xargs -0 -n1 echo; printf '' | xargs echo e; printf '' | xargs -r echo e; printf 'a\nb c\n' | xargs -I{} echo '<{}>'; echo "'a b' c" | xargs -n1; echo x | xargs false; echo $?; echo x | xargs nosuch; echo $?`,
		`env -i A=1 env; env A=2 sh -c 'echo $A'; A=3 env | grep ^A=; env -u HOME sh -c 'echo ${HOME-none}'; env nosuch; echo $?`,
		`timeout 5 echo ok; timeout 0.1 sleep 5; echo $?; timeout -s KILL 0.1 sleep 5; echo $?; timeout 5 false; echo $?; sleep x; echo $?`,
		`date -u -d @0 +%Y-%m-%dT%H:%M:%SZ; date -u -d @86399 '+%F %T %a %b %j %u %y %Z %%'; TZ=Asia/Singapore date -d @0 +%H:%M; date -u -d '2024-01-02 03:04:05' +%s; date -u -d @0; date -u -R -d @0; date -u -I -d @0`,
		`test -f f; echo $?; [ -d d ]; echo $?; test -L d/l; echo $?; [ -s f -a ! -e nope ]; echo $?; test a = b; echo $?; [ 3 -gt 2 ] && echo gt; [ -z "" ]; echo $?; test -r f -a -w f; echo $?; env test -f f; echo $?; env [ -f nope ]; echo $?`,
		`printf '%s-%d\n' a 1 b 2; printf '%5s|%-5s|%05d\n' a b 42; printf '%x %o %c\n' 255 8 xyz; printf 'a\tb\\n\n'; printf '%b' 'x\ny\n'; printf '%%\n'; env printf '%s\n' p; echo -n x; echo; echo 'a\nb'; echo -e 'a\nb'`,
		`set -eu; f() { local x=1; echo $x; }; f; for i in 1 2 3; do [ $i = 2 ] && continue; echo $i; done; case abc in a*) echo A;; esac; x=${y:-def}; echo $x ${x#d} ${x%f} ${#x} ${x/e/E}; echo $((1+2*3)); while read -r a b; do echo "$b/$a"; done <g | head -1; echo "$(cat g | wc -l)"; false || echo or; if ! false; then echo not; fi; echo "$undefined"; echo unreachable`,
		`a=(1 2 3); echo ${#a[@]} ${a[1]}; [[ abc =~ ^a(b) ]] && echo ${BASH_REMATCH[1]}; IFS=: read -r x y z <g; echo $y; set -- a 'b c'; echo $# "$2"; for x in "$@"; do echo "<$x>"; done; shift; echo $1; echo *.none; echo d/*.conf; (cd d && pwd | grep -o 'd$'); { echo 1; echo 2; } | cat; echo err >&2; ! true; echo $?`,
		`set -e; trap 'echo trapped $?' EXIT; cat <<'X' | sed 's/a/b/'
$literal a
X
cat <<-Y
	tab $((2+2))
	Y
(exit 3); echo no`,
		`set -o pipefail; false | true; echo $?; x=$(exit 4); echo $?; nosuchcmd 2>/dev/null; echo $?; ./f; echo $?; ./d; echo $?; ./nope; echo $?; sh -c 'exit 9'; echo $?; bash nope.sh; echo $?; printf 'echo $0 $1\n' >s.sh; sh s.sh a; sh -e -c 'false; echo x'; echo $?; sh -c 'echo $0' name`,
		`printf '#!/bin/sh\necho "$@"\n' >r; chmod 755 r; ./r a b; PATH=.:$PATH r c; cp r r2; printf 'echo plain $1\n' >p; chmod +x p; ./p x; . ./p; command -v r; echo $?; eval 'echo e'; exec echo last; echo never`,
		`sleep 5 & p=$!; kill -0 $p && echo there; kill $p; wait $p; echo $?; kill -0 $p 2>/dev/null; echo $?; (sleep 0.01; exit 3) & wait $!; echo $?; { echo bg; } & wait; sh -c 'kill -TERM $$'; echo $?; sh -c 'kill -9 $$; echo no'; echo $?`,
		`dd if=f of=h bs=1 count=5 2>/dev/null; cat h; echo; truncate -s 3 f; cat f; echo; truncate -s 1K f; stat -c %s f; dd if=/dev/zero bs=1k count=2 status=none | wc -c; cmp -s f g; echo $?; diff -q g g; echo $?; diff -q f g; echo $?; realpath d/../d/l | grep -o 'd/1.conf'; readlink -f d/l | grep -o 'd/1.conf'; realpath nope/x; echo $?; readlink -e nope; echo $?`,
		`head -c 1k f | wc -c; head --bytes=3 f; head -n -0 g; head -n 1 nope f; echo $?; tail -1 f g; echo $?; tail -f nope; echo $?; wc d >/dev/null; echo $?; wc -l - <f; sort -t: -k2 nope g; echo $?; sort -tab g; echo $?; sort -k2 f; sort -cu g; echo $?; sort d; echo $?`,
		`cut f; echo $?; cut -d: -f3-1 g; echo $?; cut -c1 -f1 g; echo $?; cut -c1 -d: g; echo $?; cut -f0 g; echo $?; tr '\141' Q <g; tr c-a x <g; echo $?; tr -d a b <g; echo $?; tr a b c <g; echo $?; seq 1 2 3 4; echo $?; basename a b c; echo $?; basename ''; dirname a/../b a//b/`,
		`grep -o '[a-z]*' g; grep -L alpha f g; echo $?; grep -L zzz f; echo $?; grep -w '#' f; grep -rl three .; cd d; grep -r three; grep -r three e/3.txt; printf 'a\0b\n' | grep a; echo $?; printf 'a\0b\n' | grep -c a; grep -E 'a**' ../g | wc -l; grep 'a\{1' ../g; echo $?; grep -w 'a.*' ../g`,
		`printf 'a\r\n' | sed 's/\r$//'; sed 's/\b/|/g' g; sed 's/b*/X/g' g; sed 's/\<[a-z]/X/g' f; sed p d; echo $?; sed -i p; echo $?; sed -i p nope; echo $?; sed -i p d; echo $?; sed -f nope g; echo $?; sed '#n' g; sed '1a\  x' g; sed 's/:/-/2g' g; sed -n p nope g | wc -l; sed -i 's/a/b/' f nope g; echo $?; head -1 g`,
		`mv f f; echo $?; mv f nope/; echo $?; rm -rf .; echo $?; rm -rf ..; echo $?; rm -rf /; echo $?; rm -f f/x; echo $?; rmdir; echo $?; touch; echo $?; ln -sf f f; echo $?; ln -t d f; ls d; mkdir --mode=700 m; stat -c %a m; mkdir -p ''; echo $?; touch --date=@7 x; stat -c %Y x; touch -a x; stat -c %Y x; cp -d d/l y; readlink y; cp -r d/l z; readlink z; cp -p f f; echo $?`,
		`stat -c '%h %F' d; stat -c %N d/l f; stat -c %s; echo $?; chmod u=g,o=u f; stat -c %a f; chmod g=u-w f; stat -c %a f; chmod -- -x f; stat -c %a f; chmod 2755 d; chmod 755 d; stat -c %a d; chmod 00755 d; stat -c %a d; install f f; echo $?; mktemp aXXXXXX.txt | grep -c 'txt$'; mktemp aXXX bXXX; echo $?; readlink -f ''; echo $?; realpath ''; echo $?; ls -l d | wc -l; ls -l d | head -1 | cut -c1-5; ls -ld d | cut -c1-10; truncate -s 1KB f; stat -c %s f; truncate -s 5; echo $?; dd if=f bs=0; echo $?`,
		`sha256sum f g >s; rm f; sha256sum -c s; echo $?; echo bad >>s; sha256sum -c s; echo $?; sha256sum -b g | cut -c65-; printf bad | sha256sum -c; echo $?; cmp g s; echo $?; printf b | cmp - g; echo $?; cmp g g; base64 g s; echo $?; uname x; echo $?; nproc x; echo $?; echo -ne 'a\tb\n'; printf '%d' x >/dev/null; echo $?; env - A=1 env; date -u --rfc-3339=seconds -d @0; date -u -d @99999999999 +%F; printf ' a b \n' | xargs -I{} echo '<{}>'`,
		`find d -type f,l | sort; find d -o; echo $?; find d -newer nope; echo $?; tar -cvf x.tar f g; tar -cf - -v f 2>&1 >/dev/null; tar -cf x.tar d; tar -tf x.tar nope; echo $?; tar -xf /dev/null; echo $?; tar -czf x.tgz f; tar -tf x.tgz; tar -xf nope; echo $?; tar -cf nope/x f; echo $?; tar --strip-components=x -xf x.tar; echo $?`,
		`echo a | read x; echo "[$x]"; printf 'a\n' | while read l; do y=$l; done; echo "[$y]"; f() { z=1; }; true | f; echo "[$z]"; echo a | { exit 3; }; echo $?; set -- a b; shift 3; echo $? $#; [ 1 -eq x ]; echo $?; [ x = -gt ]; echo $?; cd nope; echo $?; cd f; echo $?; wait 99999; echo $?; trap 'echo no' EXIT; trap - EXIT; (exit x); echo $?`,
		`set -e; trap 'echo bye' EXIT; echo a | while read x; do exit 4; done; echo not reached`,
		`du -s -b nope; echo $?; df -P / | tail -1 | grep -c ' /$'; df --output=pcent / | tail -1 | grep -c '%'; df nope; echo $?; umask; umask 027; touch w; mkdir v; stat -c %a w v; nohup echo n 2>/dev/null; nice -n 5 echo m; setsid -w echo s; true; echo $?; env false; echo $?`,
	} {
		name := script
		if len(name) > 50 {
			name = name[:50]
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			cmd := isolated(text + script)
			cmd.Dir = dir
			cmd.Env = append(cmd.Env, "HOME="+dir)
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			want, err := cmd.Output()
			wantCode := 0
			if ee, ok := errors.AsType[*exec.ExitError](err); ok {
				wantCode = ee.ExitCode()
			} else {
				require.NoError(t, err)
			}
			d := "/tmp/" + rand.Text()
			got, code := h.RunAs(t.Context(), user, "mkdir "+d+"; exec 2>"+d+".err; cd "+d+"; "+text+script)
			errs, _ := h.Disk().ReadFile(d + ".err")
			assert.Equal(t, string(want), got, "here: %s\nreal: %s", errs, stderr.String())
			assert.Equal(t, wantCode, code, "here: %s\nreal: %s", errs, stderr.String())
		})
	}
}
