#!/bin/bash
echo "$EPOCHREALTIME" >moment
