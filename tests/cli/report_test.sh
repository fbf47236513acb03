#!/bin/sh
# usage: report_test.sh NYBBLE_BINARY MODEL_DIR
# nybble report from outside: the page is well formed, needs nothing from elsewhere, escapes what
# files call their tensors, shows every number of its JSON's, and is drawn by a browser, no wider
# than a phone.
set -u
program=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
model=$(cd "$2" && pwd)
prefix='nybble: '
tests=$(cd "$(dirname "$0")/.." && pwd)
. "$tests/support/cli_helpers.sh"
. "$tests/support/safetensors.sh"
cd "$scratch" || exit 1

# expect_in FILE PATTERN...: fixed strings.
expect_in() {
  file=$1
  shift
  for pattern in "$@"; do
    grep -q -F -e "$pattern" "$file" || fail "no '$pattern' in $file"
  done
}

cat >sweep.json <<'JSON'
{"rows":24,"cols":64,"activations":null,"results":[
 {"format":"int4","method":"rtn","bits_per_weight":4.5,
  "sqnr_calibration_db":20.0,"sqnr_test_db":19.0},
 {"format":"int4","method":"gptq","bits_per_weight":4.5,
  "sqnr_calibration_db":25.5,"sqnr_test_db":null},
 {"format":"<b>&","method":"rtn","bits_per_weight":4.25,
  "sqnr_calibration_db":null,"sqnr_test_db":17.0}]}
JSON
sed 's/19.0/21.0/' sweep.json >sweep2.json

"$program" report "$model" --original "$model" --sweep sweep.json sweep2.json --out page.html \
  --json numbers.json >out 2>err || fail "report: $(cat err)"
[ -s out ] && fail 'report: output on stdout, expected none'
expect_in page.html '<!DOCTYPE html>' 'name="viewport"' 'prefers-color-scheme: dark' \
  'role="img"' '<title id="chart1-title">' 'model.layers.0.mlp.down_proj.weight' 'exact' \
  '&lt;b&gt;&amp;' '20.00' 'Mean of 2 layers'
expect_in numbers.json '"tensors": 38' '"same_values": true' '"equal": true' \
  '"sqnr_db": 20.0' '"sqnr_db": 25.5' '"layers": 2'
for pattern in '<script' 'http://' 'https://' '<link' '@import' 'url('; do
  # The namespace of SVG is a name, not an address.
  sed 's|xmlns="http://www.w3.org/2000/svg"||g' page.html | grep -q -F -e "$pattern" &&
    fail "'$pattern' in the page"
done
"$program" report "$model" --original "$model" --sweep sweep.json sweep2.json --threads 3 \
  --out three.html || fail 'report --threads 3'
cmp page.html three.html || fail 'the page with three threads'

# Quantized: histograms, and errors from the events or from the original.
"$program" quantize "$model" --format int4 --rule '*.down_proj=nvfp4' --out quantized --json \
  >events.jsonl || fail 'quantize'
"$program" report quantized --events events.jsonl --out events.html --json events.json ||
  fail 'report --events'
expect_in events.html 'measured while quantizing' 'peak memory' '<h2>Time</h2>' 'Levels of nvfp4' \
  'Scales of int4' 'worst layer'
"$program" report quantized --original "$model" --out quantized.html --json quantized.json ||
  fail 'report of a quantized model'
expect_in quantized.html 'compared with the original' 'Levels of nvfp4' '<td>exact</td>'
expect_same 'layers of either' "$(grep -c '"sqnr_db": [0-9]' events.json)" \
  "$(grep -c '"sqnr_db": [0-9]' quantized.json)"

# Names that would be markup; a file without any quantized layer and without an original.
long='a&b'
for i in 1 2 3 4 5 6 7; do long="${long}_b_b_b_b_b_b_b_b_b_b"; done
safetensors hostile.safetensors '<script>alert(1)</script>' F32 1 '\000\000\300\177' \
  "$long" I32 2 '\000\000\300\177\000\000\300\177' '\u0001\ud83d\ude00' F32 1 '\000\000\200\077'
"$program" report hostile.safetensors --out hostile.html || fail 'report hostile.safetensors'
expect_in hostile.html '&lt;script&gt;alert(1)&lt;/script&gt;' 'a&amp;b_b_b_b' 'hostile.safetensors'
grep -q -F '<script' hostile.html && fail 'markup from a file in the page'

if command -v xmllint >/dev/null 2>&1; then
  for page in page.html hostile.html events.html quantized.html; do
    xmllint --noout --nonet "$page" >xml.txt 2>&1 || fail "$page: $(head -n 3 xml.txt)"
  done
  echo 'ok: well formed'
else
  echo 'skipped: report_test: no xmllint, pages not checked'
fi

# --- what is wrong
mkdir nothing
printf '[1]' >array.json
printf '{"results":[{"format":"int4"}]}' >lacking.json
printf '{' >broken.json
printf '{"event":"start"}\n{"name":1}\n' >broken.jsonl
expect_exit 3 'array.json.*results' report "$model" --sweep array.json --out nothing/page.html
expect_exit 3 'lacking.json: results\[0\].*method' \
  report "$model" --sweep lacking.json --out nothing/page.html
expect_exit 3 'broken.json' report "$model" --sweep broken.json --out nothing/page.html
expect_exit 3 'broken.jsonl: line 2.*event' \
  report "$model" --events broken.jsonl --out nothing/page.html
expect_exit 3 'missing' report missing --out nothing/page.html
expect_exit 3 'missing' report "$model" --original missing --out nothing/page.html
expect_exit 3 'nowhere' report "$model" --out nowhere/page.html
expect_exit 2 'two outputs' report "$model" --out nothing/page --json nothing/page
expect_exit 2 'out' report "$model"
cp hostile.safetensors nothing/in.safetensors
ln -s in.safetensors nothing/link
for name in in.safetensors link; do
  expect_exit 2 "$name: is the input" report nothing/in.safetensors --out nothing/$name
  expect_exit 2 "$name: is the input .*in.safetensors" report nothing --out nothing/$name
  expect_exit 2 "$name: is the input" \
    report "$model" --original nothing/in.safetensors --out page2.html --json nothing/$name
done
expect_exit 2 'sweep.json: is the input' report "$model" --sweep sweep.json --out sweep.json
cmp hostile.safetensors nothing/in.safetensors || fail 'an input that was to be an output'
rm nothing/in.safetensors nothing/link
expect_same 'nothing written' "$(ls -A nothing)" ''

# --- in a browser: there is something to see, in the light and in the dark; nothing is wider than a
# phone and no text smaller than 12 pixels there.
browser=
for name in chromium chromium-browser google-chrome; do
  command -v $name >/dev/null 2>&1 && browser=$name && break
done
if [ -z "$browser" ]; then
  echo 'skipped: report_test: no chromium, pages not drawn'
  finish
fi
# browse OPTION... URL
browse() {
  timeout 120 $browser --headless --no-sandbox --disable-gpu --hide-scrollbars \
    --user-data-dir="$scratch/browser" --allow-file-access-from-files "$@" 2>browser.txt
}
# screenshot PAGE WIDTH PNG OPTION...
screenshot() {
  page=$1 width=$2 png=$3
  shift 3
  browse "$@" --screenshot="$scratch/$png" --window-size="$width,3000" \
    "file://$scratch/$page" >/dev/null
  [ -s "$png" ] || fail "$browser made no $png: $(tail -n 3 browser.txt)"
}
screenshot page.html 390 phone.png
screenshot page.html 1200 desk.png
screenshot page.html 390 dark.png --force-dark-mode
printf '<body></body>' >blank.html
screenshot blank.html 390 blank.png
for png in phone desk dark; do
  if [ "$(wc -c <$png.png)" -gt $((4 * $(wc -c <blank.png))) ]; then
    echo "ok: $png.png is not blank"
  else
    fail "$png.png is blank"
  fi
done
cmp -s phone.png dark.png && fail 'dark and light are the same'
# The page has no scripts; one that has it in a frame measures it.
measure() {
  cat >frame.html <<HTML
<iframe src="$1" width="390" height="3000" style="border:0"></iframe><p id="out"></p><script>
onload = () => {
  const page = document.querySelector('iframe').contentDocument;
  let smallest = 100;
  for (const text of page.querySelectorAll('text')) {
    const matrix = text.getScreenCTM();
    const scale = Math.hypot(matrix.a, matrix.b);
    smallest = Math.min(smallest, parseFloat(getComputedStyle(text).fontSize) * scale);
  }
  for (const text of page.querySelectorAll('h1, h2, p, dt, dd, th, td, figcaption, footer')) {
    smallest = Math.min(smallest, parseFloat(getComputedStyle(text).fontSize));
  }
  document.getElementById('out').textContent =
    'width ' + page.documentElement.scrollWidth + ' text ' + (smallest >= 12 ? 'fine' : smallest);
}
</script>
HTML
  browse --dump-dom "file://$scratch/frame.html" | sed -n 's/.*<p id="out">\(.*\)<\/p>.*/\1/p'
}
expect_same 'the page on a phone' "$(measure page.html)" 'width 390 text fine'
expect_same 'the page of a quantized model' "$(measure quantized.html)" 'width 390 text fine'
expect_same 'the page of hostile names on a phone' "$(measure hostile.html)" 'width 390 text fine'
# To be looked at.
if [ -n "${NYBBLE_REPORT_DIR:-}" ]; then
  screenshot quantized.html 390 quantized.png
  cp quantized.html quantized.png page.html phone.png desk.png dark.png "$NYBBLE_REPORT_DIR"
fi

finish
