# safetensors PATH NAME TYPE SHAPE DATA [NAME TYPE SHAPE DATA]...: writes a file of those tensors.
# SHAPE is "2, 3"; DATA is for printf.
safetensors() {
  st_path=$1
  shift
  st_header=
  st_end=0
  : >"$st_path.data"
  while [ $# -gt 0 ]; do
    printf "$4" >>"$st_path.data"
    st_begin=$st_end
    st_end=$(($(wc -c <"$st_path.data")))
    st_header="$st_header${st_header:+,}\"$1\":{\"dtype\":\"$2\",\"shape\":[$3],\"data_offsets\":[$st_begin,$st_end]}"
    shift 4
  done
  st_header="{$st_header}"
  {
    # The length in little endian; headers here are shorter than 64 KiB.
    printf "\\$(printf %03o $((${#st_header} % 256)))\\$(printf %03o $((${#st_header} / 256)))"
    printf '\000\000\000\000\000\000%s' "$st_header"
    cat "$st_path.data"
  } >"$st_path"
  rm "$st_path.data"
}
